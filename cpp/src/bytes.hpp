// A view of bytes that cannot be read past its end.
#pragma once

#include "u2slim/segmenter.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

namespace u2slim {

struct Bytes {
    const std::uint8_t* data = nullptr;
    std::size_t size = 0;

    // `count` bytes from `start` on. Throws Error where there are not so many.
    Bytes part(std::size_t start, std::size_t count) const {
        if (start > size || count > size - start) throw Error("the end is missing");
        return {data + start, count};
    }
    Bytes from(std::size_t start) const { return part(start, size - std::min(start, size)); }
    bool has(std::size_t start, const char* text) const {
        const std::size_t count = std::strlen(text);
        return start <= size && count <= size - start && std::memcmp(data + start, text, count) == 0;
    }
    std::uint8_t u8(std::size_t start) const { return *part(start, 1).data; }
    std::uint32_t big(std::size_t start, int count) const {
        std::uint32_t value = 0;
        const Bytes read = part(start, count);
        for (int i = 0; i < count; ++i) value = value << 8 | read.data[i];
        return value;
    }
    std::uint32_t little(std::size_t start, int count) const {
        std::uint32_t value = 0;
        const Bytes read = part(start, count);
        for (int i = count; i-- > 0;) value = value << 8 | read.data[i];
        return value;
    }
    std::string text() const { return {reinterpret_cast<const char*>(data), size}; }
};

}  // namespace u2slim
