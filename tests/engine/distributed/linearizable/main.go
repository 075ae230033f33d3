// Linearizable says whether histories of points are linearizable: whether there is one order of all that was done to a
// point, within the time that each call took, in which every reader saw what the last writer had written.
//
// Standard input has one operation a line, as JSON (see operation); standard output gets one verdict a point that has
// no such order, or was too much to decide.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"sort"
	"time"

	"github.com/anishathalye/porcupine"
)

const (
	longestLine = 1 << 20 // bytes
	patience    = 60 * time.Second
)

// What a client did to a point. Times are nanoseconds of one clock; without a return nobody knows whether a write was
// done, or will be. Value 0 is a point that is not there: what a deletion writes, and what a reader then finds.
type operation struct {
	Point  string `json:"point"`
	Client int    `json:"client"`
	Writes bool   `json:"writes"`
	Value  int    `json:"value"`
	Call   int64  `json:"call"`
	Return *int64 `json:"return"`
}

type input struct {
	writes bool
	value  int
}

// A point is a register, empty at first.
var register = porcupine.Model{
	Init: func() any { return 0 },
	Step: func(state, in, out any) (bool, any) {
		if asked := in.(input); asked.writes {
			return true, asked.value
		}
		return out.(int) == state.(int), state
	},
}

func main() {
	points := map[string][]porcupine.Operation{}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, longestLine)
	for lines.Scan() {
		var each operation
		if err := json.Unmarshal(lines.Bytes(), &each); err != nil {
			fail(err)
		}
		end := int64(math.MaxInt64)
		if each.Return != nil {
			end = *each.Return
		}
		points[each.Point] = append(points[each.Point], porcupine.Operation{
			ClientId: each.Client,
			Input:    input{each.Writes, each.Value},
			Output:   each.Value,
			Call:     each.Call,
			Return:   end,
		})
	}
	if err := lines.Err(); err != nil {
		fail(err)
	}
	names := make([]string, 0, len(points))
	for name := range points {
		names = append(names, name)
	}
	sort.Strings(names)
	verdicts := json.NewEncoder(os.Stdout)
	for _, name := range names {
		if verdict := porcupine.CheckOperationsTimeout(register, points[name], patience); verdict != porcupine.Ok {
			if err := verdicts.Encode(map[string]string{"point": name, "verdict": string(verdict)}); err != nil {
				fail(err)
			}
		}
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
