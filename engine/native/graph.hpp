// Searching an HNSW graph over 8-bit codes in faiss' format (`index/quantized.py`), where it lies in its file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "codes.hpp"
#include "kernels.hpp"

namespace graph {

struct Bytes {
    const uint8_t* data;
    size_t size;
};

using codes::Metric;

// What a serialised faiss IndexHNSWSQ consists of, found in its bytes. Nothing of them is copied.
//
// Any bytes may be given: whatever they say, nothing outside of them is ever read.
class Graph {
public:
    // Null and a reason where *body* is not such an index of *count* vectors.
    static Graph* parse(Bytes body, size_t count, size_t dimension, Metric metric, const char** problem);

    size_t count() const { return count_; }
    size_t dimension() const { return dimension_; }

    struct Question {
        const float* queries;  // [rows, dimension]
        size_t rows;
        size_t limit;
        size_t candidates;    // scored again for each query, at least limit
        size_t ef;
        const uint8_t* mask;  // one bit a vector, or null: all are allowed
    };

    struct Answer {
        int64_t* offsets;  // [rows, limit]
        float* scores;     // [rows, limit]: inner product or Euclidean distance
        int32_t* found;    // [rows]: how many of them there are
    };

    // The nearest of each query by the full-precision *vectors* [count, dimension], closest first, equal ones by offset.
    void search(const float* vectors, const Question& question, const Answer& answer,
                const kernels::Kernels& kernels) const;

private:
    struct Ranked;
    class Compare;
    class Scratch;

    void candidates(const Compare& compare, const Question& question, Scratch& scratch) const;
    Ranked entry(const Compare& compare) const;
    const uint8_t* links(uint32_t node, size_t level, size_t* count) const;
    void prefetch_links(uint32_t node) const;
    const uint8_t* code(uint32_t node) const { return codes_ + size_t(node) * dimension_; }

    size_t count_;
    size_t dimension_;
    Metric metric_;
    std::vector<uint32_t> levels_end_;  // of each level, where its links end among those of a node
    const uint8_t* offsets_;            // u64 [count + 1]: where the links of each node begin
    const uint8_t* links_;              // i32: nodes, -1 from the first that is not there
    size_t link_count_;
    uint32_t entry_point_;
    size_t top_level_;
    bool in_integers_;
    const uint8_t* ranges_;      // f32 [2, dimension]: lowest value and width of each; nothing with integers
    const uint8_t* codes_;       // u8 [count, dimension]
};

}  // namespace graph
