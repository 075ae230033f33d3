#include "graph.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>

#include "walk.hpp"

namespace graph {

using walk::AHEAD;
using walk::ordered;
using walk::prefetch;

namespace {

template <typename T>
T load(const uint8_t* from) {
    T value;  // nothing in the file is aligned
    std::memcpy(&value, from, sizeof value);
    return value;
}

// Takes what faiss wrote from the front of what is left. Once it comes to an end, it stays there.
class Reader {
public:
    explicit Reader(Bytes bytes) : at_(bytes.data), left_(bytes.size) {}

    const uint8_t* take(size_t size) {
        if (size > left_) {
            failed_ = true;
            return nullptr;
        }
        const uint8_t* taken = at_;
        at_ += size;
        left_ -= size;
        return taken;
    }

    template <typename T>
    T number() {
        const uint8_t* taken = take(sizeof(T));
        return taken == nullptr ? T{} : load<T>(taken);
    }

    bool is(const char* letters) {
        const uint8_t* taken = take(4);
        return taken != nullptr && std::memcmp(taken, letters, 4) == 0;
    }

    // An array behind its length.
    const uint8_t* array(size_t item, size_t* length) {
        const uint64_t found = number<uint64_t>();
        if (failed_ || found > left_ / item) {
            failed_ = true;
            *length = 0;
            return nullptr;
        }
        *length = size_t(found);
        return take(size_t(found) * item);
    }

    // What every faiss index begins with: dimension, count, two numbers that mean nothing, whether it is trained, metric.
    bool header(size_t count, size_t dimension, Metric metric) {
        const auto found_dimension = number<int32_t>();
        const auto found_count = number<int64_t>();
        take(16);
        const auto trained = number<uint8_t>();
        const auto found_metric = number<int32_t>();
        return !failed_ && found_dimension >= 0 && size_t(found_dimension) == dimension && found_count >= 0 &&
               size_t(found_count) == count && trained == 1 && found_metric == int32_t(metric);
    }

    bool failed() const { return failed_; }
    size_t left() const { return left_; }

private:
    const uint8_t* at_;
    size_t left_;
    bool failed_ = false;
};

}  // namespace

Graph* Graph::parse(Bytes body, size_t count, size_t dimension, Metric metric, const char** problem) {
    auto graph = std::make_unique<Graph>();
    Reader reader(body);
    size_t length;
    *problem = "its header is not that of an HNSW index of these vectors";
    if (count == 0 || count > INT32_MAX || dimension == 0) return nullptr;
    if (!reader.is("IHNs") || !reader.header(count, dimension, metric)) return nullptr;

    *problem = "its graph is not whole";
    reader.array(8, &length);  // how probable each level is, for adding
    const uint8_t* ends = reader.array(4, &length);
    if (reader.failed() || length < 2 || load<int32_t>(ends) != 0) return nullptr;
    for (size_t level = 1; level < length; ++level) {
        const auto end = load<int32_t>(ends + 4 * level);
        if (end < load<int32_t>(ends + 4 * (level - 1))) return nullptr;
        graph->levels_end_.push_back(uint32_t(end));
    }
    reader.array(4, &length);  // the levels of each node, which its links tell too
    graph->offsets_ = reader.array(8, &length);
    if (reader.failed() || length != count + 1) return nullptr;
    graph->links_ = reader.array(4, &graph->link_count_);
    const auto entry_point = reader.number<int32_t>();
    const auto top_level = reader.number<int32_t>();
    reader.take(12);  // ef of building and of searching, and one number that means nothing
    if (reader.failed() || entry_point < 0 || size_t(entry_point) >= count || top_level < 0 ||
        size_t(top_level) >= graph->levels_end_.size())
        return nullptr;

    *problem = "its codes are not those of its vectors";
    if (!reader.is("IxSQ") || !reader.header(count, dimension, metric)) return nullptr;
    const auto kind = reader.number<int32_t>();
    reader.take(8);  // how ranges were found
    const auto code_dimension = reader.number<uint64_t>();
    const auto code_size = reader.number<uint64_t>();
    const uint8_t* ranges = reader.array(4, &length);
    const bool in_integers = kind == codes::INTEGERS;
    if (reader.failed() || code_dimension != dimension || code_size != dimension ||
        !(in_integers || (kind == codes::RANGES && length == 2 * dimension)))
        return nullptr;
    graph->codes_ = reader.array(1, &length);
    if (reader.failed() || reader.left() != 0 || length != count * dimension) return nullptr;

    graph->count_ = count;
    graph->dimension_ = dimension;
    graph->metric_ = metric;
    graph->entry_point_ = uint32_t(entry_point);
    graph->top_level_ = size_t(top_level);
    graph->in_integers_ = in_integers;
    graph->ranges_ = ranges;
    return graph.release();
}

struct Graph::Ranked {
    float farness;
    uint32_t node;

    bool operator<(const Ranked& other) const {
        return farness != other.farness ? farness < other.farness : node < other.node;
    }
    bool operator>(const Ranked& other) const { return other < *this; }
};

// One query, made ready to be held against codes. What it gives is smaller for what is nearer.
class Graph::Compare {
public:
    Compare(const Graph& graph, const kernels::Kernels& kernels) : graph_(graph), kernels_(kernels) {
        if (graph.in_integers_)
            scaled_.resize(graph.dimension_);
        else
            weights_.resize(graph.dimension_ * 2);
    }

    void set(const float* query) {
        const size_t dimension = graph_.dimension_;
        if (graph_.in_integers_) {
            // In whole numbers, the largest of them 127: the order of inner products stays.
            float largest = codes::SMALLEST_SCALED;
            for (size_t i = 0; i < dimension; ++i) largest = std::max(largest, std::fabs(query[i]));
            const float scale = codes::LARGEST_CODE / largest;
            int64_t total = 0;
            for (size_t i = 0; i < dimension; ++i) {
                scaled_[i] = int8_t(std::nearbyint(query[i] * scale));
                total += scaled_[i];
            }
            signs_ = codes::SIGN * total;
            return;
        }
        float* from = weights_.data();
        float* steps = from + dimension;
        for (size_t i = 0; i < dimension; ++i) {
            const auto lowest = load<float>(graph_.ranges_ + 4 * i);
            const auto step = load<float>(graph_.ranges_ + 4 * (dimension + i)) / codes::CODE_STEPS;
            if (graph_.metric_ == Metric::l2) {
                from[i] = query[i] - lowest - step / 2;
                steps[i] = step;
            } else {
                from[i] = query[i] * step;
            }
        }
    }

    float operator()(uint32_t node) const {
        const uint8_t* code = graph_.code(node);
        const size_t dimension = graph_.dimension_;
        if (graph_.in_integers_) return -float(kernels_.integers(scaled_.data(), code, dimension) - signs_);
        if (graph_.metric_ == Metric::l2)
            return ordered(kernels_.squared(weights_.data(), weights_.data() + dimension, code, dimension));
        return ordered(-kernels_.weighted(weights_.data(), code, dimension));  // less what is the same for all
    }

private:
    const Graph& graph_;
    const kernels::Kernels& kernels_;
    std::vector<int8_t> scaled_;
    int64_t signs_ = 0;
    std::vector<float> weights_;
};

// What a search works with, used again for each query of a call.
class Graph::Scratch {
public:
    explicit Scratch(size_t count) : visited(count) {}

    void clear() {
        visited.clear();
        open.clear();
        nearest.clear();
        allowed.clear();
    }

    walk::Visited visited;
    std::vector<Ranked> open;     // min-heap: to be expanded
    std::vector<Ranked> nearest;  // max-heap: the ef nearest of all
    std::vector<Ranked> allowed;  // max-heap: the nearest of what the mask allows
};

namespace {

// Keep the *most* smallest in the max-heap. False where *item* is not one of them.
template <typename T>
bool keep(std::vector<T>& heap, size_t most, const T& item) {
    if (heap.size() < most) {
        heap.push_back(item);
        std::push_heap(heap.begin(), heap.end());
        return true;
    }
    if (!(item < heap.front())) return false;
    std::pop_heap(heap.begin(), heap.end());
    heap.back() = item;
    std::push_heap(heap.begin(), heap.end());
    return true;
}

bool is_set(const uint8_t* mask, uint32_t bit) { return mask[bit >> 3] >> (bit & 7) & 1; }

}  // namespace

const uint8_t* Graph::links(uint32_t node, size_t level, size_t* count) const {
    const auto first = load<uint64_t>(offsets_ + 8 * size_t(node));
    const auto end = load<uint64_t>(offsets_ + 8 * size_t(node) + 8);
    const uint64_t begin = level == 0 ? 0 : levels_end_[level - 1];
    // As long as the file says what it should, the last of these hold always.
    const bool whole = end <= link_count_ && first <= end && levels_end_[level] <= end - first;
    *count = whole ? levels_end_[level] - begin : 0;
    return links_ + 4 * (whole ? first + begin : 0);
}

void Graph::prefetch_links(uint32_t node) const {
    const auto first = load<uint64_t>(offsets_ + 8 * size_t(node));
    if (first < link_count_) prefetch(links_ + 4 * first, 4 * size_t(levels_end_[0]));
}

// The nearest node that is found from the top of the graph, one level after the other.
Graph::Ranked Graph::entry(const Compare& compare) const {
    Ranked best{compare(entry_point_), entry_point_};
    for (size_t level = top_level_; level >= 1; --level) {
        for (bool nearer = true; nearer;) {
            nearer = false;
            size_t count;
            const uint8_t* neighbours = links(best.node, level, &count);
            for (size_t i = 0; i < count; ++i) {
                const auto node = load<uint32_t>(neighbours + 4 * i);
                if (node >= count_) break;
                const float farness = compare(node);
                if (farness < best.farness) {
                    best = {farness, node};
                    nearer = true;
                }
            }
        }
    }
    return best;
}

void Graph::candidates(const Compare& compare, const Question& question, Scratch& scratch) const {
    const size_t ef = std::max(question.ef, question.candidates);
    scratch.clear();
    auto take = [&](const Ranked& found) {
        if (keep(scratch.nearest, ef, found)) {
            scratch.open.push_back(found);
            std::push_heap(scratch.open.begin(), scratch.open.end(), std::greater<>());
        }
        if (question.mask != nullptr && is_set(question.mask, found.node))
            keep(scratch.allowed, question.candidates, found);
    };
    const Ranked start = entry(compare);
    scratch.visited.visit(start.node);
    take(start);
    std::vector<uint32_t> fresh;
    while (!scratch.open.empty()) {
        std::pop_heap(scratch.open.begin(), scratch.open.end(), std::greater<>());
        const Ranked nearest = scratch.open.back();
        scratch.open.pop_back();
        if (scratch.nearest.size() == ef && nearest > scratch.nearest.front()) break;
        size_t count;
        const uint8_t* neighbours = links(nearest.node, 0, &count);
        if (!scratch.open.empty()) prefetch_links(scratch.open.front().node);  // most likely the next
        fresh.clear();
        for (size_t i = 0; i < count; ++i) {
            const auto node = load<uint32_t>(neighbours + 4 * i);
            if (node >= count_) break;
            if (scratch.visited.visit(node)) {
                fresh.push_back(node);
            }
        }
        for (size_t i = 0; i < std::min(AHEAD, fresh.size()); ++i) prefetch(code(fresh[i]), dimension_);
        for (size_t i = 0; i < fresh.size(); ++i) {
            if (i + AHEAD < fresh.size()) prefetch(code(fresh[i + AHEAD]), dimension_);
            take({compare(fresh[i]), fresh[i]});
        }
    }
    auto& found = question.mask == nullptr ? scratch.nearest : scratch.allowed;
    std::sort_heap(found.begin(), found.end());
    if (found.size() > question.candidates) found.resize(question.candidates);
    if (question.mask == nullptr) scratch.allowed.swap(found);
}

void Graph::search(const float* vectors, const Question& question, const Answer& answer,
                   const kernels::Kernels& kernels) const {
    Compare compare(*this, kernels);
    Scratch scratch(count_);
    for (size_t row = 0; row < question.rows; ++row) {
        const float* query = question.queries + row * dimension_;
        compare.set(query);
        candidates(compare, question, scratch);
        auto& found = scratch.allowed;
        for (Ranked& each : found) {
            const float* vector = vectors + size_t(each.node) * dimension_;
            each.farness = ordered(metric_ == Metric::l2 ? kernels.euclid(query, vector, dimension_)
                                                         : -kernels.inner(query, vector, dimension_));
        }
        std::sort(found.begin(), found.end());
        const size_t hits = std::min(found.size(), question.limit);
        answer.found[row] = int32_t(hits);
        for (size_t i = 0; i < hits; ++i) {
            answer.offsets[row * question.limit + i] = found[i].node;
            answer.scores[row * question.limit + i] =
                metric_ == Metric::l2 ? std::sqrt(found[i].farness) : -found[i].farness;
        }
    }
}

}  // namespace graph
