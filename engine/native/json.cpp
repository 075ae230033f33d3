#include "json.hpp"

#include <charconv>
#include <cmath>
#include <cstring>

namespace json {
namespace {

constexpr double POWERS[] = {1e-44, 1e-43, 1e-42, 1e-41, 1e-40, 1e-39, 1e-38, 1e-37, 1e-36, 1e-35, 1e-34, 1e-33,
                            1e-32, 1e-31, 1e-30, 1e-29, 1e-28, 1e-27, 1e-26, 1e-25, 1e-24, 1e-23, 1e-22, 1e-21, 1e-20,
                            1e-19, 1e-18, 1e-17, 1e-16, 1e-15, 1e-14, 1e-13, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7,
                            1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9,
                            1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
constexpr int SMALLEST_POWER = -44;
constexpr int LARGEST_POWER = 22;
constexpr double ROUNDINGS = 6e-16;  // more than three roundings of a double are wrong by, of the value

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

const char* skip_space(const char* at, const char* end) {
    while (at < end && is_space(*at)) ++at;
    return at;
}

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
constexpr bool EIGHT_AT_ONCE = true;
#else
constexpr bool EIGHT_AT_ONCE = false;
#endif

constexpr uint64_t WHOLE_POWERS[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000};

// How many of the next eight characters are digits before the first that is none, and the number that these write.
int up_to_eight_digits(const char* at, uint64_t* number) {
    uint64_t bytes;
    std::memcpy(&bytes, at, 8);
    bytes ^= 0x3030303030303030;  // digits become 0 to 9
    // What is more than 9 gets its highest bit; a carry can reach only what follows the first of these.
    const uint64_t others = (bytes | (bytes + 0x7676767676767676)) & 0x8080808080808080;
    const int count = others == 0 ? 8 : __builtin_ctzll(others) / 8;
    bytes = count == 0 ? 0 : bytes << (64 - 8 * count);
    // Neighbours are put together: digits to pairs, pairs to fours, fours to eight.
    bytes = bytes * 10 + (bytes >> 8);
    *number = (((bytes & 0x000000FF000000FF) * 0x000F424000000064) +
               (((bytes >> 16) & 0x000000FF000000FF) * 0x0000271000000001)) >>
              32;
    return count;
}

// Put the digits at *at* behind those of *number*; null where 64 bits do not hold them all.
const char* read_digits(const char* at, const char* end, uint64_t* number) {
    uint64_t value = *number;
    while (EIGHT_AT_ONCE && end - at >= 8) {
        uint64_t more = 0;
        const int count = up_to_eight_digits(at, &more);
        if (__builtin_mul_overflow(value, WHOLE_POWERS[count], &value) || __builtin_add_overflow(value, more, &value))
            return nullptr;
        at += count;
        if (count < 8) {
            *number = value;
            return at;
        }
    }
    for (; at < end && is_digit(*at); ++at) {
        if (value > (UINT64_MAX - 9) / 10) return nullptr;
        value = value * 10 + uint64_t(*at - '0');
    }
    *number = value;
    return at;
}

// Where the number ends that begins at *at*; null where there is none, or it needs more care.
const char* read_number(const char* at, const char* end, float* out) {
    const bool negative = at < end && *at == '-';
    at += negative;
    if (at >= end || !is_digit(*at)) return nullptr;
    if (*at == '0' && at + 1 < end && is_digit(at[1])) return nullptr;
    uint64_t digits = 0;
    if (at + 1 < end && at[1] == '.') {
        digits = uint64_t(*at++ - '0');  // as nearly always
    } else {
        at = read_digits(at, end, &digits);
        if (at == nullptr) return nullptr;
    }
    long exponent = 0;
    if (at < end && *at == '.') {
        const char* const start = ++at;
        at = read_digits(at, end, &digits);
        if (at == nullptr || at == start) return nullptr;
        exponent = start - at;
    }
    if (at < end && (*at | 0x20) == 'e') {
        ++at;
        const bool below = at < end && *at == '-';
        at += at < end && (*at == '-' || *at == '+');
        const char* const start = at;
        long power = 0;
        for (; at < end && is_digit(*at) && power < 1000; ++at) power = power * 10 + (*at - '0');
        if (at == start || power >= 1000) return nullptr;
        exponent += below ? -power : power;
    }
    const double sign = negative ? -1.0 : 1.0;
    if (digits == 0) {
        *out = float(sign * 0.0);
        return at;
    }
    if (exponent > LARGEST_POWER || exponent < SMALLEST_POWER) return nullptr;
    const double value = sign * (double(digits) * POWERS[exponent - SMALLEST_POWER]);
    // Not the nearest double perhaps. It does not matter where all those around become the same float.
    const float nearest = float(value * (1 + ROUNDINGS));
    if (float(value * (1 - ROUNDINGS)) != nearest || !(std::fabs(nearest) < 3.4e38f)) return nullptr;
    *out = nearest;
    return at;
}

// Behind the list of *dimension* numbers that begins at *at*; null where there is none that can be read.
const char* read_list(const char* at, const char* end, size_t dimension, float* out) {
    if (at >= end || *at != '[') return nullptr;
    ++at;
    for (size_t i = 0; i < dimension; ++i) {
        at = read_number(skip_space(at, end), end, out + i);
        if (at == nullptr) return nullptr;
        at = skip_space(at, end);
        if (at >= end || *at != (i + 1 < dimension ? ',' : ']')) return nullptr;
        ++at;
    }
    return at;
}

// Behind the string that begins at *at*; null where it does not end, or holds an escape and may not.
const char* skip_string(const char* at, const char* end, bool escapes) {
    for (++at; at < end; ++at) {
        if (*at == '"') return at + 1;
        if (*at == '\\') {
            if (!escapes) return nullptr;
            ++at;
        }
    }
    return nullptr;
}

// Behind the value that begins at *at*, as far as its brackets tell.
const char* skip_value(const char* at, const char* end) {
    size_t depth = 0;
    while (at < end) {
        const char c = *at;
        if (c == '"') {
            at = skip_string(at, end, true);
            if (at == nullptr) return nullptr;
        } else {
            if (depth == 0 && (c == ',' || c == '}' || c == ']')) return at;
            depth += c == '{' || c == '[';
            depth -= c == '}' || c == ']';
            ++at;
        }
        if (depth == 0 && (c == '"' || c == '}' || c == ']')) return at;
    }
    return nullptr;
}

bool is_key(const char* start, const char* end, const char* name) {
    const size_t length = std::strlen(name);
    return size_t(end - start) == length + 2 && std::memcmp(start + 1, name, length) == 0;
}

template <typename Number>
void append(std::string* out, Number number) {
    char digits[32];
    const auto end = std::to_chars(digits, digits + sizeof digits, number);
    out->append(digits, size_t(end.ptr - digits));
}

void append_score(std::string* out, float score) {
    if (!std::isfinite(score)) {
        out->append("null");
        return;
    }
    const size_t start = out->size();
    append(out, score);
    // A whole number is written as a float all the same.
    if (out->find_first_of(".e", start) == std::string::npos) out->append(".0");
}

void append_uuid(std::string* out, const uint8_t* bytes) {
    constexpr char HEX[] = "0123456789abcdef";
    out->push_back('"');
    for (size_t i = 0; i < 16; ++i) {
        if (i == 4 || i == 6 || i == 8 || i == 10) out->push_back('-');
        out->push_back(HEX[bytes[i] >> 4]);
        out->push_back(HEX[bytes[i] & 15]);
    }
    out->push_back('"');
}

}  // namespace

bool read_vector(const char* text, size_t size, size_t dimension, float* out) {
    const char* const end = text + size;
    const char* const behind = read_list(skip_space(text, end), end, dimension, out);
    return behind != nullptr && skip_space(behind, end) == end;
}

bool lift_vectors(const char* text, size_t size, size_t dimension, std::string* rest, std::vector<float>* vectors) {
    const char* const end = text + size;
    const char* copied = text;
    size_t lifted = 0;
    vectors->reserve(size / 2);  // a number takes two bytes at least; what is not used of it is never in memory
    for (const char* at = text; at < end;) {
        if (*at != '"') {
            ++at;
            continue;
        }
        const char* const key = at;
        at = skip_string(at, end, true);
        if (at == nullptr) return false;
        const char* const key_end = at;
        at = skip_space(at, end);
        if (at >= end || *at != ':') continue;  // it was no key
        if (std::memchr(key, '\\', size_t(key_end - key)) != nullptr) return false;
        at = skip_space(at + 1, end);
        if (is_key(key, key_end, "filter")) {
            at = skip_value(at, end);
            if (at == nullptr) return false;
        } else if (at < end && *at == '[' &&
                   (is_key(key, key_end, "query") || is_key(key, key_end, "vector") ||
                    is_key(key, key_end, "nearest"))) {
            vectors->resize((lifted + 1) * dimension);
            const char* const behind = read_list(at, end, dimension, vectors->data() + lifted * dimension);
            if (behind == nullptr) return false;
            rest->append(copied, size_t(at - copied));
            rest->push_back('[');
            append(rest, lifted++);
            rest->push_back(']');
            at = copied = behind;
        }
    }
    rest->append(copied, size_t(end - copied));
    return true;
}

bool write_hits(const points::Points& points, const int64_t* offsets, const float* scores, size_t count,
                std::string* out) {
    out->push_back('[');
    for (size_t i = 0; i < count; ++i) {
        points::Stamp stamp;
        if (!points.find(offsets[i], &stamp)) return false;
        out->append(i == 0 ? "{\"id\":" : ",{\"id\":");
        if (stamp.is_uuid)
            append_uuid(out, stamp.id);
        else
            append(out, points::big_endian(stamp.id));
        out->append(",\"version\":");
        append(out, stamp.version);
        out->append(",\"score\":");
        append_score(out, scores[i]);
        out->push_back('}');
    }
    out->push_back(']');
    return true;
}

}  // namespace json
