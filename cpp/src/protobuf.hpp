// Reading and writing protobuf messages, field by field.
#pragma once

#include "bytes.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace u2slim {

// One field of a protobuf message: a number, or bytes.
struct Field {
    std::uint64_t number;
    int wire;
    std::uint64_t value;
    Bytes bytes;
    Bytes whole;  // with its number and length before it

    bool is(std::uint64_t wanted, int kind) const { return number == wanted && wire == kind; }
};
constexpr int varint = 0, nested = 2;

inline std::uint64_t read_varint(Bytes in, std::size_t& at) {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        const std::uint8_t byte = in.u8(at++);
        value |= std::uint64_t(byte & 0x7f) << shift;
        if (byte < 0x80) return value;
    }
    throw Error("not protobuf");
}

template <typename Visit>
void each_field(Bytes message, Visit visit) {
    for (std::size_t at = 0; at < message.size;) {
        const std::size_t start = at;
        const std::uint64_t tag = read_varint(message, at);
        Field field{tag >> 3, int(tag & 7), 0, {}, {}};
        if (field.number == 0) throw Error("not protobuf");
        std::size_t length = 0;
        switch (field.wire) {
            case 0: field.value = read_varint(message, at); break;
            case 1: length = 8; break;
            case 2: length = read_varint(message, at); break;
            case 5: length = 4; break;
            default: throw Error("not protobuf");
        }
        field.bytes = message.part(at, length);
        at += length;
        field.whole = message.part(start, at - start);
        visit(field);
    }
}

// A repeated number, of which a file may have each by itself or all in one.
inline void read_numbers(const Field& field, std::vector<std::int64_t>& numbers) {
    if (field.wire == varint) numbers.push_back(field.value);
    if (field.wire != nested) return;
    for (std::size_t at = 0; at < field.bytes.size;) numbers.push_back(read_varint(field.bytes, at));
}

// A message that is being written.
class Message {
  public:
    void copy(const Field& field) { append(field.whole); }
    void number(std::uint64_t number, std::uint64_t value) {
        write_varint(number << 3 | varint);
        write_varint(value);
    }
    void bytes(std::uint64_t number, Bytes value) {
        write_varint(number << 3 | nested);
        write_varint(value.size);
        append(value);
    }
    void text(std::uint64_t number, const std::string& value) { bytes(number, view(value)); }
    void message(std::uint64_t number, const Message& value) { text(number, value.written); }

    const std::string& str() const { return written; }

  private:
    static Bytes view(const std::string& text) { return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()}; }
    void append(Bytes part) {
        if (part.size == 0) return;
        // Protobuf has no longer messages, and a hostile file may use one weight as many.
        if (written.size() + part.size > max_size) throw Error("it is larger than 2 GB in float32");
        written.append(reinterpret_cast<const char*>(part.data), part.size);
    }
    void write_varint(std::uint64_t value) {
        for (; value >= 0x80; value >>= 7) written += char(value | 0x80);
        written += char(value);
    }

    static constexpr std::size_t max_size = 0x7fffff00;
    std::string written;
};

}  // namespace u2slim
