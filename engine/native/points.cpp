// LMDB's data format 1, as mdb.c declares it: a file of pages, each a header of 16 bytes, 16-bit positions of its nodes
// in the order of their keys, and the nodes. A branch's node leads to a page, the first of a branch whatever its key; a
// leaf's holds key and value, or where the value begins that takes pages of its own. Numbers are the machine's.
#include "points.hpp"

#include <algorithm>
#include <cstring>

namespace points {
namespace {

constexpr uint32_t MAGIC = 0xBEEFC0DE;
constexpr uint32_t FORMAT = 1;
constexpr size_t HEADER = 16;
constexpr size_t NODE = 8;
constexpr uint16_t BRANCH = 0x01, LEAF = 0x02, OVERFLOWING = 0x04, META = 0x08;  // flags of pages
constexpr uint16_t ELSEWHERE = 0x01, TABLE = 0x02;                               // flags of nodes
constexpr unsigned DEEPEST = 32;

// A table's description: page size of the first table, flags, depth, counts, and the number of its root page
constexpr size_t TABLE_SIZE = 48, TABLE_DEPTH = 6, TABLE_ROOT = 40;
constexpr size_t FIRST_TABLE = 24, MAIN_TABLE = FIRST_TABLE + TABLE_SIZE, TRANSACTION = MAIN_TABLE + TABLE_SIZE + 8;

constexpr char NAME[] = "points";

constexpr size_t VERSION = 8;
constexpr uint8_t INTEGER = 1, UUID = 2;

template <typename T>
T load(const uint8_t* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

}  // namespace

struct Points::Node {
    const uint8_t* key;
    size_t key_size;
    const uint8_t* value;
    size_t value_size;
    uint16_t flags;
    uint64_t child;
};

class Points::Page {
public:
    const uint8_t* data = nullptr;
    size_t size = 0;

    uint16_t flags() const { return load<uint16_t>(data + 10); }
    size_t count() const {
        const size_t end = load<uint16_t>(data + 12);
        return end < HEADER || end > size ? 0 : (end - HEADER) / 2;
    }

    // The node number *i*, which is below `count`. Its value may lie elsewhere.
    bool node(size_t i, Node* node) const {
        const size_t at = load<uint16_t>(data + HEADER + 2 * i);
        if (at < HEADER || at + NODE > size) return false;
        const uint8_t* head = data + at;
        const uint64_t low = load<uint16_t>(head), high = load<uint16_t>(head + 2);
        node->flags = load<uint16_t>(head + 4);
        node->key_size = load<uint16_t>(head + 6);
        node->key = head + NODE;
        if (node->key_size > size - at - NODE) return false;
        node->child = low | high << 16 | uint64_t(node->flags) << 32;
        node->value = node->key + node->key_size;
        node->value_size = size_t(low | high << 16);
        const size_t held = flags() & BRANCH ? 0 : node->flags & ELSEWHERE ? 8 : node->value_size;
        return held <= size - at - NODE - node->key_size;
    }
};

bool Points::page(uint64_t number, Page* page) const {
    if (number >= size_ / page_size_) return false;
    page->data = file_ + size_t(number) * page_size_;
    page->size = page_size_;
    return true;
}

// The last node that is not behind what is looked for; *less* tells whether that is before a key. In a leaf, *guess* says
// at what distance from the first node it probably is, from that node's key.
template <typename Less, typename Guess>
bool Points::descend(uint64_t root, unsigned depth, Less less, Guess guess, Node* found) const {
    for (; depth > 0; --depth) {
        Page at;
        if (!page(root, &at) || !(at.flags() & (depth > 1 ? BRANCH : LEAF))) return false;
        size_t low = 0, high = at.count();
        if (high == 0) return false;
        if (depth == 1) {
            if (!at.node(0, found)) return false;
            const size_t probably = guess(*found);
            if (probably < high) {
                low = probably;
                high = probably + 1;
            }
        }
        while (high - low > 1) {
            const size_t middle = (low + high) / 2;
            if (!at.node(middle, found)) return false;
            if (less(*found))
                high = middle;
            else
                low = middle;
        }
        if (!at.node(low, found)) return false;
        root = found->child;
    }
    if (!(found->flags & ELSEWHERE)) return true;
    Page first;
    const auto number = load<uint64_t>(found->value);
    if (!page(number, &first) || !(first.flags() & OVERFLOWING)) return false;
    found->value = first.data + HEADER;
    return found->value_size <= size_ - size_t(number) * page_size_ - HEADER;
}

bool Points::open(const uint8_t* file, size_t size) {
    file_ = file;
    size_ = size;
    const uint8_t* newest = nullptr;
    size_t page_size = 4096;  // of the first; the second is where that says
    for (size_t number = 0; number < 2; ++number) {
        const size_t at = number * page_size;
        if (size < at + HEADER + TRANSACTION + 8) return false;
        const uint8_t* meta = file + at + HEADER;
        if (!(load<uint16_t>(file + at + 10) & META) || load<uint32_t>(meta) != MAGIC ||
            load<uint32_t>(meta + 4) != FORMAT)
            return false;
        if (newest == nullptr || load<uint64_t>(meta + TRANSACTION) > load<uint64_t>(newest + TRANSACTION)) newest = meta;
        page_size = load<uint32_t>(meta + FIRST_TABLE);
        if (page_size < 512 || page_size > 65536) return false;
    }
    page_size_ = page_size;
    const unsigned depth = load<uint16_t>(newest + MAIN_TABLE + TABLE_DEPTH);
    if (depth == 0 || depth > DEEPEST) return false;
    const size_t length = sizeof NAME - 1;
    auto before = [=](const Node& node) {
        const int order = std::memcmp(NAME, node.key, std::min(length, node.key_size));
        return order != 0 ? order < 0 : length < node.key_size;
    };
    Node table;
    const auto anywhere = [](const Node&) { return SIZE_MAX; };
    if (!descend(load<uint64_t>(newest + MAIN_TABLE + TABLE_ROOT), depth, before, anywhere, &table) ||
        !(table.flags & TABLE) || table.key_size != length || std::memcmp(table.key, NAME, length) != 0 ||
        table.value_size != TABLE_SIZE)
        return false;
    root_ = load<uint64_t>(table.value + TABLE_ROOT);
    depth_ = load<uint16_t>(table.value + TABLE_DEPTH);
    return depth_ <= DEEPEST;  // 0 where there are no points
}

bool Points::find(int64_t offset, Stamp* stamp) const {
    if (depth_ == 0 || offset < 0 || offset > UINT32_MAX) return false;
    const auto wanted = uint32_t(offset);
    Node node;
    const auto before = [=](const Node& each) { return each.key_size != 4 || wanted < load<uint32_t>(each.key); };
    // There is one for each number from 0 on, so a leaf's are all those from its first on.
    const auto guess = [=](const Node& first) { return first.key_size == 4 ? wanted - load<uint32_t>(first.key) : 0; };
    if (!descend(root_, depth_, before, guess, &node) || node.key_size != 4 || load<uint32_t>(node.key) != wanted)
        return false;
    if (node.value_size < VERSION + 1) return false;
    const uint8_t kind = node.value[VERSION];
    stamp->version = load<uint64_t>(node.value);
    stamp->is_uuid = kind == UUID;
    stamp->id = node.value + VERSION + 1;
    return (kind == INTEGER && node.value_size >= VERSION + 1 + 8) ||
           (kind == UUID && node.value_size >= VERSION + 1 + 16);
}

}  // namespace points
