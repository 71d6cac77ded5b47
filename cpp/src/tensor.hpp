// Tensors of an ONNX file whose numbers are wanted in float32.
#pragma once

#include "protobuf.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace u2slim {

constexpr std::int64_t float32 = 1, uint8 = 2, int8 = 3, float16 = 10;  // ONNX's numbers for types

struct Tensor {
    std::string name;
    std::vector<std::int64_t> shape;
    std::vector<float> values;
};

// The type of a tensor's numbers.
std::int64_t type_of(Bytes tensor);

// A tensor of that type, wherever it has its numbers. Throws Error for another type than the four above.
Tensor read_tensor(Bytes message, std::int64_t type);

Message written(const Tensor& tensor);

// Copies a field that is a tensor, in float32 where it is in float16.
void copy_in_float32(const Field& tensor, Message& to);

}  // namespace u2slim
