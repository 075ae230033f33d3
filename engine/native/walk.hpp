// What walking through an HNSW graph over 8-bit codes takes, whether to search it or to build it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace walk {

constexpr size_t CACHE_LINE = 64;
constexpr size_t AHEAD = 4;  // so many codes are on their way to the processor while one is compared

inline void prefetch(const void* from, size_t size) {
    const auto* bytes = static_cast<const uint8_t*>(from);
    for (size_t at = 0; at < size; at += CACHE_LINE) __builtin_prefetch(bytes + at);
}

// What is not a number, which only damage can bring about, comes last: sorting relies on an order of all.
inline float ordered(float farness) { return farness == farness ? farness : std::numeric_limits<float>::infinity(); }

// Which nodes a walk has come to: a bit for each.
class Visited {
public:
    explicit Visited(size_t count) : words_((count + 63) / 64) {}

    void clear() { std::fill(words_.begin(), words_.end(), 0); }

    // Whether *node* comes for the first time.
    bool visit(uint32_t node) {
        uint64_t& word = words_[node / 64];
        const uint64_t bit = uint64_t(1) << (node % 64);
        const bool first = (word & bit) == 0;
        word |= bit;
        return first;
    }

private:
    std::vector<uint64_t> words_;
};

}  // namespace walk
