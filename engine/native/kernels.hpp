// Inner products and distances, compiled several times for what processors can do.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace kernels {

struct Kernels {
    // Σ q·c; exact for up to 65,536 dimensions.
    int32_t (*integers)(const int8_t* query, const uint8_t* code, size_t dimension);
    // Σ w·c
    float (*weighted)(const float* weights, const uint8_t* code, size_t dimension);
    // Σ (a - s·c)²
    float (*squared)(const float* from, const float* steps, const uint8_t* code, size_t dimension);
    // Σ x·y
    float (*inner)(const float* x, const float* y, size_t dimension);
    // Σ (x - y)²
    float (*euclid)(const float* x, const float* y, size_t dimension);
};

// What this processor can run, fastest first. Never empty.
const std::vector<Kernels>& usable();

}  // namespace kernels
