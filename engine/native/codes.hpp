// How vectors are written in 8 bits a dimension: what those who write codes and those who search them agree on.
#pragma once

#include <cstdint>

namespace codes {

enum class Metric { inner_product = 0, l2 = 1 };  // faiss' numbers

// faiss' numbers of the codes
constexpr int32_t RANGES = 0;    // lowest + width · (code + ½) / 255, with a range for each dimension
constexpr int32_t INTEGERS = 8;  // whole numbers, of vectors that are all scaled alike

constexpr float LARGEST_CODE = 127;
constexpr float SMALLEST_SCALED = 1e-36f;  // float32 has no number to scale up smaller ones by
constexpr int32_t SIGN = 128;              // is added to integer codes, so that they are stored without a sign
constexpr float CODE_STEPS = 255;

}  // namespace codes
