// The verdict of porcupine, for tests of histories.
module vectorizer.io/tests/engine/distributed/linearizable

go 1.25.0

require github.com/anishathalye/porcupine v1.3.1
