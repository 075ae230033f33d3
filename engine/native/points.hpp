// Which point is at an offset of a segment, read from its `points.lmdb` where it lies in the file.
#pragma once

#include <cstddef>
#include <cstdint>

namespace points {

// Id and version of a point; see `storage/keys.py` and `storage/segment.py`.
struct Stamp {
    uint64_t version;
    bool is_uuid;
    const uint8_t* id;  // big-endian: 8 bytes, of a UUID 16; in the file, behind a byte that says which

    const uint8_t* key() const { return id - 1; }
    size_t key_size() const { return is_uuid ? 17 : 9; }
};

inline uint64_t big_endian(const uint8_t* bytes) {
    uint64_t value = 0;
    for (size_t i = 0; i < 8; ++i) value = value << 8 | bytes[i];
    return value;
}

// The table `points` of an LMDB file that is written no more. Any bytes may be given: nothing outside of them is read.
class Points {
public:
    // False where it is no file of LMDB's format 1 with that table.
    bool open(const uint8_t* file, size_t size);

    // False where there is no such row, or the file is damaged.
    bool find(int64_t offset, Stamp* stamp) const;

private:
    class Page;
    struct Node;

    bool page(uint64_t number, Page* page) const;
    template <typename Less, typename Guess>
    bool descend(uint64_t root, unsigned depth, Less less, Guess guess, Node* found) const;

    const uint8_t* file_ = nullptr;
    size_t size_ = 0;
    size_t page_size_ = 0;
    uint64_t root_ = 0;
    unsigned depth_ = 0;
};

}  // namespace points
