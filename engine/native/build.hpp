// Building an HNSW graph over 8-bit codes (`index/quantized.py`), by several threads, as faiss serialises one.
//
// Insertion as in Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical
// Navigable Small World graphs" (2016), algorithms 1, 2 and 4.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "codes.hpp"
#include "kernels.hpp"

namespace build {

struct Task {
    const float* vectors;  // [count, dimension]
    size_t count;          // 1 to INT32_MAX
    size_t dimension;
    codes::Metric metric;
    size_t links;          // of a node on each upper level, twice as many on the lowest; 2 to MOST_LINKS
    size_t ef;             // candidates for them
    size_t threads;        // 1 to MOST_THREADS
};

constexpr size_t MOST_LINKS = 1024;
constexpr size_t MOST_EF = 65536;
constexpr size_t MOST_THREADS = 1024;

// Memory that is read all over the place, in large pages where there are such: building then takes a twelfth less.
// Throws std::bad_alloc.
void* allocate_large(size_t size);

template <typename T>
class Large {
public:
    Large() = default;
    explicit Large(size_t count) : items_(static_cast<T*>(allocate_large(count * sizeof(T)))) {}

    T& operator[](size_t i) { return items_.get()[i]; }
    const T& operator[](size_t i) const { return items_.get()[i]; }

private:
    struct Free {
        void operator()(void* items) const { std::free(items); }
    };
    std::unique_ptr<T, Free> items_;
};

// An index while it is built, and the bytes that faiss would write of it. What is held here is what they consist of.
class Index {
public:
    // Takes as long as building it does. Throws std::system_error where no thread can be started, and std::bad_alloc.
    Index(const Task& task, const kernels::Kernels& kernels);

    size_t size() const { return size_; }

    // Those of its bytes from *position* on that there are, *size* at most. How many that is.
    size_t read(size_t position, uint8_t* out, size_t size) const;

private:
    class Integers;
    class Ranges;
    template <typename Compare>
    class Inserter;

    struct Part {
        const void* data;
        size_t size;
    };

    void draw_levels();
    void encode(const Task& task);
    template <typename Compare>
    void insert_all(const Task& task);
    void serialise(const Task& task);

    size_t level(uint32_t node) const { return size_t(levels_[node]) - 1; }
    size_t capacity(size_t level) const { return level == 0 ? 2 * links_a_level_ : links_a_level_; }
    std::atomic<int32_t>* links(uint32_t node, size_t level) {
        return &links_[offsets_[node] + (level == 0 ? 0 : (level + 1) * links_a_level_)];
    }
    const uint8_t* code(uint32_t node) const { return &codes_[size_t(node) * dimension_]; }

    const kernels::Kernels kernels_;
    size_t count_;
    size_t dimension_;
    size_t links_a_level_;
    uint32_t entry_point_ = 0;
    std::vector<int32_t> levels_;     // of each node, and one more, as in faiss' files
    std::vector<uint64_t> offsets_;   // [count + 1]: where the links of each node begin
    Large<std::atomic<int32_t>> links_;
    std::vector<float> ranges_;       // lowest value and width of each dimension; nothing with integers
    Large<uint8_t> codes_;            // [count, dimension]
    std::array<std::vector<uint8_t>, 4> before_;  // what stands before levels, offsets, links and codes
    std::vector<Part> parts_;
    size_t size_ = 0;
};

}  // namespace build
