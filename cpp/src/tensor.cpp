#include "tensor.hpp"

#include <cstring>

namespace u2slim {
namespace {

float float_of(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Exponent and fraction move to their places in float32; the factor then mends the exponent, of the smallest, too.
float widened(std::uint16_t half) {
    const float size = float_of(std::uint32_t(half & 0x7fff) << 13) * 0x1p112f;
    return half & 0x8000 ? -size : size;
}

float number_of(std::int64_t type, std::uint64_t stored) {
    switch (type) {
        case float32: return float_of(std::uint32_t(stored));
        case uint8: return std::uint8_t(stored);
        case int8: return std::int8_t(stored);
        case float16: return widened(std::uint16_t(stored));
    }
    throw Error("its 8 bits have a factor or an offset of an unknown type");
}

}  // namespace

Tensor read_tensor(Bytes message, std::int64_t type) {
    Tensor tensor;
    std::vector<std::int64_t> numbers;
    Bytes raw;
    each_field(message, [&](const Field& field) {
        if (field.number == 1) read_numbers(field, tensor.shape);
        if (field.number == 5) read_numbers(field, numbers);
        if (field.is(8, nested)) tensor.name = field.bytes.text();
        if (field.is(9, nested)) raw = field.bytes;
        for (std::size_t at = 0; field.number == 4 && at + 4 <= field.bytes.size; at += 4)
            tensor.values.push_back(float_of(field.bytes.little(at, 4)));
    });
    const int width = type == float32 ? 4 : type == float16 ? 2 : 1;
    for (const std::int64_t number : numbers) tensor.values.push_back(number_of(type, number));
    for (std::size_t at = 0; at + width <= raw.size; at += width)
        tensor.values.push_back(number_of(type, raw.little(at, width)));
    return tensor;
}

Message written(const Tensor& tensor) {
    Message message;
    for (const std::int64_t side : tensor.shape) message.number(1, side);
    message.number(2, float32);
    message.text(8, tensor.name);
    message.bytes(9, {reinterpret_cast<const std::uint8_t*>(tensor.values.data()), tensor.values.size() * sizeof(float)});
    return message;
}

std::int64_t type_of(Bytes tensor) {
    std::int64_t type = 0;
    each_field(tensor, [&](const Field& field) {
        if (field.is(2, varint)) type = field.value;
    });
    return type;
}

void copy_in_float32(const Field& tensor, Message& to) {
    if (type_of(tensor.bytes) == float16)
        to.message(tensor.number, written(read_tensor(tensor.bytes, float16)));
    else
        to.copy(tensor);
}

}  // namespace u2slim
