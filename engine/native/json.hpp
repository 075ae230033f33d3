// Vectors out of JSON, and hits into it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "points.hpp"

namespace json {

// Read a list of *dimension* numbers.
//
// False where the text is anything else, and where a number is one of the few that need more care than is taken here:
// the caller then has it read by others. What is written is what rounding to double and then to float makes of it.
bool read_vector(const char* text, size_t size, size_t dimension, float* out);

// A search or a batch of them with each vector (a list of *dimension* numbers under the key query, vector or nearest)
// replaced by a list of its number, which are counted from 0: [0], [1] …
//
// False where one cannot be read as above, so that after true every list under these keys is such a number.
bool lift_vectors(const char* text, size_t size, size_t dimension, std::string* rest, std::vector<float>* vectors);

// A list of objects with id, version and score. False where *points* is not whole.
bool write_hits(const points::Points& points, const int64_t* offsets, const float* scores, size_t count,
                std::string* out);

}  // namespace json
