#include "build.hpp"

#include <cerrno>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>
#include <thread>

#ifdef __linux__
#include <sys/mman.h>
#include <sys/resource.h>
#endif

#include "walk.hpp"

namespace build {

void* allocate_large(size_t size) {
    constexpr size_t huge = 2 << 20;
    void* place = nullptr;
    if (posix_memalign(&place, size < huge ? alignof(std::max_align_t) : huge, size) != 0) throw std::bad_alloc();
#ifdef __linux__
    // Their whole pieces, so no more memory is held. Nothing is lost where the kernel has none.
    madvise(place, size / huge * huge, MADV_HUGEPAGE);
#endif
    return place;
}

namespace {

constexpr int32_t NONE = -1;            // where there is no link
constexpr double RAREST_LEVEL = 1e-9;   // that a level is there for: faiss has as many
constexpr size_t LOCKS = 1024;          // few enough to be nothing, so many that hardly two threads want the same
constexpr size_t PLACES_A_TIE = 8;      // one of so many links may be to what is as near to another one
constexpr size_t PIECE_BYTES = 1 << 20; // of vectors, encoded at once
constexpr int NICENESS = 10;            // as of the threads that the engine works with in the background
constexpr int32_t USUAL_EF = 16;        // with which faiss would search

// Threads that build give way to those that search.
void give_way() {
#ifdef __linux__
    errno = 0;
    const int now = getpriority(PRIO_PROCESS, 0);  // of this thread: it inherited that of who began to build
    if (errno == 0 && now < NICENESS) setpriority(PRIO_PROCESS, 0, NICENESS);
#endif
}

// Numbers below *count*, each of which is taken once.
class Tickets {
public:
    explicit Tickets(size_t count) : count_(count) {}

    bool take(size_t* ticket) {
        *ticket = next_.fetch_add(1, std::memory_order_relaxed);
        return *ticket < count_;
    }
    void take_all() { next_.store(count_, std::memory_order_relaxed); }

private:
    std::atomic<size_t> next_{0};
    const size_t count_;
};

// Have so many threads, or as many as can be started, call *work*, which takes what is to be done from *tickets*.
// Throws what the first of them threw.
template <typename Work>
void in_threads(size_t threads, Tickets& tickets, Work work) {
    std::mutex lock;
    std::exception_ptr problem;
    const auto run = [&] {
        try {
            give_way();
            work();
        } catch (...) {
            tickets.take_all();
            const std::lock_guard<std::mutex> held(lock);
            if (!problem) problem = std::current_exception();
        }
    };
    std::vector<std::thread> started;
    started.reserve(threads);
    try {
        while (started.size() < threads) started.emplace_back(run);
    } catch (...) {
        if (started.empty()) throw;
    }
    for (std::thread& each : started) each.join();
    if (problem) std::rethrow_exception(problem);
}

// A number that looks random, and is always the same for the same *number* (splitmix64, by Sebastiano Vigna).
uint64_t scrambled(uint64_t number) {
    number = (number + 1) * 0x9e3779b97f4a7c15;
    number = (number ^ (number >> 30)) * 0xbf58476d1ce4e5b9;
    number = (number ^ (number >> 27)) * 0x94d049bb133111eb;
    return number ^ (number >> 31);
}

// How probable each level is, from the lowest on: a node of one level is on the next with probability 1 / links.
std::vector<double> level_shares(size_t links) {
    std::vector<double> shares;
    for (double reached = 1;; reached /= double(links)) {
        const double share = reached * (1 - 1 / double(links));
        if (share < RAREST_LEVEL) return shares;
        shares.push_back(share);
    }
}

// Numbers in the order of what they stand for.
uint32_t in_order(int32_t number) { return uint32_t(number) ^ 0x80000000; }
uint32_t in_order(float number) {
    uint32_t bits;
    std::memcpy(&bits, &number, sizeof bits);
    return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}

// A node and how far it is from another, in one number. Smaller ones are nearer; equally far ones are in the order of
// the lots that the other draws for them. The lowest bit is for whoever keeps it.
using Ranked = uint64_t;
constexpr Ranked DONE = 1;

uint32_t farness_of(Ranked item) { return uint32_t(item >> 32); }

// The lots that a node draws for others. Where many vectors are equal, each then links to others of them, and not all
// to the same few, which would be all that is ever found.
class Lots {
public:
    explicit Lots(uint32_t node) : salt_(uint32_t(scrambled(node))) {}

    Ranked ranked(uint32_t farness, uint32_t node) const {
        return uint64_t(farness) << 32 | uint64_t(((node ^ salt_) * FACTOR & ALL) << 1);
    }
    uint32_t node(Ranked item) const { return ((uint32_t(item) >> 1) * INVERSE ^ salt_) & ALL; }

private:
    static constexpr uint32_t ALL = INT32_MAX;
    static constexpr uint32_t FACTOR = 0x9e3779b1;  // odd, so there is one that takes it back modulo 2³²
    static constexpr uint32_t INVERSE = 0x0e8b2f51;
    static_assert(uint32_t(FACTOR * INVERSE) == 1);

    uint32_t salt_;
};

// The so many nearest of all that were offered, nearest first, and which of them have been expanded.
class Nearest {
public:
    explicit Nearest(size_t most) : items_(most + 1), most_(most) {}

    void clear() { size_ = next_ = 0; }

    void offer(Ranked item) {
        if (size_ == most_) {
            if (item >= items_[size_ - 1]) return;
        } else {
            ++size_;
        }
        size_t low = 0, count = size_ - 1;
        while (count > 0) {
            const size_t half = (count + 1) / 2;
            low += items_[low + half - 1] < item ? half : 0;
            count -= half;
        }
        std::memmove(&items_[low + 1], &items_[low], (size_ - 1 - low) * sizeof(Ranked));
        items_[low] = item;
        next_ = std::min(next_, low);
    }

    // The nearest that was not expanded before; null where there is none.
    const Ranked* expand() {
        while (next_ < size_ && (items_[next_] & DONE) != 0) ++next_;
        if (next_ == size_) return nullptr;
        items_[next_] |= DONE;
        return &items_[next_++];
    }

    // What `expand` would most likely give.
    const Ranked* expected() const { return next_ < size_ ? &items_[next_] : nullptr; }

    const Ranked* begin() const { return items_.data(); }
    size_t size() const { return size_; }

private:
    std::vector<Ranked> items_;
    size_t most_;
    size_t size_ = 0;
    size_t next_ = 0;  // none before it is left to be expanded
};

template <typename T>
void append(std::vector<uint8_t>& bytes, T number) {
    const auto* from = reinterpret_cast<const uint8_t*>(&number);
    bytes.insert(bytes.end(), from, from + sizeof number);
}

void append(std::vector<uint8_t>& bytes, const char* letters) { bytes.insert(bytes.end(), letters, letters + 4); }

}  // namespace

// A node by its integer code, made ready to be held against others. What it gives is smaller for what is nearer.
class Index::Integers {
public:
    explicit Integers(const Index& index) : index_(index), code_(index.dimension_) {}

    void set(uint32_t node) {
        // In local variables, which what is written cannot change: so compilers vectorise it, and building takes a
        // third less time.
        const size_t dimension = code_.size();
        const uint8_t* code = index_.code(node);
        int8_t* own = code_.data();
        int32_t total = 0;
        for (size_t i = 0; i < dimension; ++i) {
            own[i] = int8_t(code[i] - codes::SIGN);
            total += own[i];
        }
        signs_ = codes::SIGN * total;
    }

    uint32_t operator()(uint32_t node) const {
        return in_order(signs_ - index_.kernels_.integers(code_.data(), index_.code(node), code_.size()));
    }

private:
    const Index& index_;
    std::vector<int8_t> code_;
    int32_t signs_ = 0;
};

// The same for codes with ranges: squares of Euclidean distances.
class Index::Ranges {
public:
    explicit Ranges(const Index& index)
        : index_(index), from_(index.dimension_), steps_(index.dimension_) {
        for (size_t i = 0; i < steps_.size(); ++i) steps_[i] = index.ranges_[index.dimension_ + i] / codes::CODE_STEPS;
    }

    void set(uint32_t node) {
        const size_t dimension = from_.size();
        const uint8_t* code = index_.code(node);
        float* from = from_.data();
        for (size_t i = 0; i < dimension; ++i) from[i] = steps_[i] * float(code[i]);
    }

    uint32_t operator()(uint32_t node) const {
        return in_order(walk::ordered(
            index_.kernels_.squared(from_.data(), steps_.data(), index_.code(node), from_.size())));
    }

private:
    const Index& index_;
    std::vector<float> from_, steps_;
};

// One thread that inserts nodes.
template <typename Compare>
class Index::Inserter {
public:
    Inserter(Index& index, std::mutex* locks, size_t ef)
        : index_(index), locks_(locks), asked_(index), between_(index), visited_(index.count_), nearest_(ef) {}

    void insert(uint32_t node) {
        const Lots lots(node);
        asked_.set(node);
        uint32_t start = index_.entry_point_;
        size_t level = index_.level(start);
        for (; level > index_.level(node); --level) start = descend(start, level);
        for (;; --level) {
            search(node, lots, start, level);
            start = lots.node(nearest_.begin()[0]);
            select(lots, nearest_.begin(), nearest_.size(), index_.capacity(level));
            linked_.swap(chosen_);
            for (const Ranked other : linked_) link(node, lots.node(other), farness_of(other), level);
            for (const Ranked other : linked_) link(lots.node(other), node, farness_of(other), level);
            if (level == 0) return;
        }
    }

private:
    // Where steps to ever nearer nodes lead to from *best*.
    uint32_t descend(uint32_t best, size_t level) const {
        uint32_t least = asked_(best);
        for (bool nearer = true; nearer;) {
            nearer = false;
            for_each_link(best, level, [&](uint32_t node) {
                const uint32_t farness = asked_(node);
                if (farness >= least) return;
                least = farness;
                best = node;
                nearer = true;
            });
        }
        return best;
    }

    // Have in nearest_ what is nearest to *node*, itself aside.
    void search(uint32_t node, const Lots& lots, uint32_t start, size_t level) {
        visited_.clear();
        nearest_.clear();
        visited_.visit(node);
        visited_.visit(start);
        nearest_.offer(lots.ranked(asked_(start), start));
        while (const Ranked* next = nearest_.expand()) {
            fresh_.clear();
            for_each_link(lots.node(*next), level, [&](uint32_t each) {
                if (visited_.visit(each)) fresh_.push_back(each);
            });
            if (const Ranked* expected = nearest_.expected())
                walk::prefetch(index_.links(lots.node(*expected), level), sizeof(int32_t) * index_.capacity(level));
            for (size_t i = 0; i < std::min(walk::AHEAD, fresh_.size()); ++i) prefetch(fresh_[i]);
            for (size_t i = 0; i < fresh_.size(); ++i) {
                if (i + walk::AHEAD < fresh_.size()) prefetch(fresh_[i + walk::AHEAD]);
                nearest_.offer(lots.ranked(asked_(fresh_[i]), fresh_[i]));
            }
        }
    }

    // Have in chosen_ the first of these *candidates* for links of one node, nearest first, that are nearer to it than
    // to any chosen before. Of those that are as near to both, as are equal vectors, there may be a few: with none they
    // would not lead to each other, and with any number to nothing else.
    void select(const Lots& lots, const Ranked* candidates, size_t count, size_t most) {
        chosen_.clear();
        if (count < most) {
            chosen_.assign(candidates, candidates + count);
            return;
        }
        size_t ties = std::max<size_t>(1, most / PLACES_A_TIE);
        for (size_t i = 0; i < count && chosen_.size() < most; ++i) {
            const uint32_t farness = farness_of(candidates[i]);
            between_.set(lots.node(candidates[i]));
            bool good = true, tied = false;
            for (size_t j = 0; j < chosen_.size() && good; ++j) {
                const uint32_t between = between_(lots.node(chosen_[j]));
                good = between >= farness;
                tied = tied || between == farness;
            }
            if (!good || (tied && ties == 0)) continue;
            ties -= tied;
            chosen_.push_back(candidates[i]);
        }
    }

    // Have *other* among the links of *node*, unless those that there are leave it no place.
    void link(uint32_t node, uint32_t other, uint32_t farness, size_t level) {
        const size_t capacity = index_.capacity(level);
        std::atomic<int32_t>* links = index_.links(node, level);
        const std::lock_guard<std::mutex> held(locks_[node % LOCKS]);
        size_t count = 0;
        for (; count < capacity; ++count) {
            const int32_t each = links[count].load(std::memory_order_relaxed);
            if (each == NONE) break;
            if (uint32_t(each) == other) return;  // it was inserted at the same time, and has seen to both
        }
        if (count < capacity) {
            links[count].store(int32_t(other), std::memory_order_relaxed);
            return;
        }
        const Lots lots(node);
        between_.set(node);
        candidates_.assign(1, lots.ranked(farness, other));
        for_each_link(node, level, [&](uint32_t each) { candidates_.push_back(lots.ranked(between_(each), each)); });
        std::sort(candidates_.begin(), candidates_.end());
        select(lots, candidates_.data(), candidates_.size(), capacity);
        for (size_t i = 0; i < capacity; ++i)
            links[i].store(i < chosen_.size() ? int32_t(lots.node(chosen_[i])) : NONE, std::memory_order_relaxed);
    }

    // Other threads may be writing them. Whatever is read is a node of the level, if perhaps one that is just to go.
    template <typename Take>
    void for_each_link(uint32_t node, size_t level, Take take) const {
        const std::atomic<int32_t>* links = index_.links(node, level);
        const size_t capacity = index_.capacity(level);
        for (size_t i = 0; i < capacity; ++i) {
            const int32_t each = links[i].load(std::memory_order_relaxed);
            if (each == NONE) return;
            take(uint32_t(each));
        }
    }

    void prefetch(uint32_t node) const { walk::prefetch(index_.code(node), index_.dimension_); }

    Index& index_;
    std::mutex* locks_;
    Compare asked_, between_;
    walk::Visited visited_;
    Nearest nearest_;
    std::vector<uint32_t> fresh_;
    std::vector<Ranked> candidates_, chosen_, linked_;
};

Index::Index(const Task& task, const kernels::Kernels& kernels)
    : kernels_(kernels), count_(task.count), dimension_(task.dimension), links_a_level_(task.links) {
    draw_levels();
    encode(task);
    if (task.metric == codes::Metric::l2)
        insert_all<Ranges>(task);
    else
        insert_all<Integers>(task);
    serialise(task);
}

void Index::draw_levels() {
    const size_t most = level_shares(links_a_level_).size();
    levels_.resize(count_);
    offsets_.resize(count_ + 1);
    for (size_t node = 0; node < count_; ++node) {
        size_t levels = 1;
        uint64_t bar = UINT64_MAX / links_a_level_;
        const uint64_t drawn = scrambled(node);
        for (; drawn < bar && levels < most; bar /= links_a_level_) ++levels;
        levels_[node] = int32_t(levels);
        if (levels > size_t(levels_[entry_point_])) entry_point_ = uint32_t(node);
        offsets_[node + 1] = offsets_[node] + (levels + 1) * links_a_level_;
    }
    const size_t links = offsets_[count_];
    links_ = Large<std::atomic<int32_t>>(links);
    for (size_t i = 0; i < links; ++i) new (&links_[i]) std::atomic<int32_t>(NONE);
}

void Index::encode(const Task& task) {
    codes_ = Large<uint8_t>(count_ * dimension_);
    const size_t rows = std::max<size_t>(1, PIECE_BYTES / (sizeof(float) * dimension_));
    const size_t pieces = (count_ + rows - 1) / rows;
    const auto each_piece = [&](auto work) {
        Tickets tickets(pieces);
        in_threads(std::min(task.threads, pieces), tickets, [&] {
            work([&](size_t* first, size_t* end) {
                size_t piece;
                if (!tickets.take(&piece)) return false;
                *first = piece * rows;
                *end = std::min(count_, *first + rows);
                return true;
            });
        });
    };
    std::mutex lock;
    if (task.metric == codes::Metric::l2) {
        std::vector<float> lowest(task.vectors, task.vectors + dimension_), highest = lowest;
        each_piece([&](auto take) {
            std::vector<float> low = lowest, high = lowest;
            for (size_t row, end; take(&row, &end);)
                for (; row < end; ++row)
                    for (size_t i = 0; i < dimension_; ++i) {
                        const float value = task.vectors[row * dimension_ + i];
                        low[i] = value < low[i] ? value : low[i];
                        high[i] = value > high[i] ? value : high[i];
                    }
            const std::lock_guard<std::mutex> held(lock);
            for (size_t i = 0; i < dimension_; ++i) {
                lowest[i] = std::min(lowest[i], low[i]);
                highest[i] = std::max(highest[i], high[i]);
            }
        });
        ranges_ = lowest;
        for (size_t i = 0; i < dimension_; ++i) ranges_.push_back(highest[i] - lowest[i]);
        each_piece([&](auto take) {
            for (size_t row, end; take(&row, &end);)
                for (; row < end; ++row)
                    for (size_t i = 0; i < dimension_; ++i) {
                        const float width = ranges_[dimension_ + i];
                        const float part = width > 0 ? (task.vectors[row * dimension_ + i] - ranges_[i]) / width : 0;
                        codes_[row * dimension_ + i] = uint8_t(codes::CODE_STEPS * part);
                    }
        });
        return;
    }
    float largest = codes::SMALLEST_SCALED;
    each_piece([&](auto take) {
        float most = 0;
        for (size_t row, end; take(&row, &end);)
            for (size_t i = row * dimension_; i < end * dimension_; ++i) {
                const float value = std::fabs(task.vectors[i]);
                most = value > most ? value : most;
            }
        const std::lock_guard<std::mutex> held(lock);
        largest = std::max(largest, most);
    });
    const float scale = codes::LARGEST_CODE / largest;
    each_piece([&](auto take) {
        for (size_t row, end; take(&row, &end);)
            for (size_t i = row * dimension_; i < end * dimension_; ++i)
                codes_[i] = uint8_t(int32_t(std::nearbyint(task.vectors[i] * scale)) + codes::SIGN);
    });
}

template <typename Compare>
void Index::insert_all(const Task& task) {
    if (count_ == 1) return;
    std::vector<std::mutex> locks(LOCKS);
    Tickets tickets(2 * count_);
    in_threads(std::min(task.threads, count_ - 1), tickets, [&] {
        Inserter<Compare> inserter(*this, locks.data(), task.ef);
        for (size_t ticket; tickets.take(&ticket);) {
            // First those of the upper levels, which lead to all others
            const bool upper = ticket < count_;
            const auto node = uint32_t(upper ? ticket : ticket - count_);
            if ((level(node) > 0) == upper && node != entry_point_) inserter.insert(node);
        }
    });
}

// What faiss writes of an index: numbers, and four long arrays, each behind its length.
void Index::serialise(const Task& task) {
    const auto begin = [&](std::vector<uint8_t>& bytes, const char* kind) {
        append(bytes, kind);
        append(bytes, int32_t(dimension_));
        append(bytes, int64_t(count_));
        for (int i = 0; i < 2; ++i) append(bytes, int64_t(1) << 20);  // mean nothing
        append(bytes, uint8_t(1));                                    // is trained
        append(bytes, int32_t(task.metric));
    };
    auto& [before_levels, before_offsets, before_links, before_codes] = before_;

    begin(before_levels, "IHNs");
    const std::vector<double> shares = level_shares(links_a_level_);
    append(before_levels, uint64_t(shares.size()));
    for (const double share : shares) append(before_levels, share);
    append(before_levels, uint64_t(shares.size() + 1));
    append(before_levels, int32_t(0));
    for (size_t level = 0; level < shares.size(); ++level)
        append(before_levels, int32_t((level + 2) * links_a_level_));  // where the links of each level end
    append(before_levels, uint64_t(count_));

    append(before_offsets, uint64_t(count_ + 1));
    const uint64_t links = offsets_[count_];
    append(before_links, links);

    append(before_codes, int32_t(entry_point_));
    append(before_codes, int32_t(level(entry_point_)));
    append(before_codes, int32_t(task.ef));
    append(before_codes, USUAL_EF);
    append(before_codes, int32_t(1));  // means nothing
    begin(before_codes, "IxSQ");
    append(before_codes, task.metric == codes::Metric::l2 ? codes::RANGES : codes::INTEGERS);
    append(before_codes, int32_t(0));  // ranges are from the lowest to the highest value …
    append(before_codes, float(0));    // … and not wider
    append(before_codes, uint64_t(dimension_));
    append(before_codes, uint64_t(dimension_));  // bytes of a code
    append(before_codes, uint64_t(ranges_.size()));
    for (const float each : ranges_) append(before_codes, each);
    append(before_codes, uint64_t(count_ * dimension_));

    static_assert(sizeof(std::atomic<int32_t>) == sizeof(int32_t), "links are written as they lie here");
    parts_ = {
        {before_levels.data(), before_levels.size()},   {levels_.data(), levels_.size() * sizeof(int32_t)},
        {before_offsets.data(), before_offsets.size()}, {offsets_.data(), offsets_.size() * sizeof(uint64_t)},
        {before_links.data(), before_links.size()},     {&links_[0], links * sizeof(int32_t)},
        {before_codes.data(), before_codes.size()},     {&codes_[0], count_ * dimension_},
    };
    for (const Part& part : parts_) size_ += part.size;
}

size_t Index::read(size_t position, uint8_t* out, size_t size) const {
    size_t done = 0;
    for (const Part& part : parts_) {
        if (position >= part.size) {
            position -= part.size;
            continue;
        }
        const size_t taken = std::min(size - done, part.size - position);
        std::memcpy(out + done, static_cast<const uint8_t*>(part.data) + position, taken);
        done += taken;
        position = 0;
    }
    return done;
}

}  // namespace build
