// The net of an ONNX file as every OpenCV from 4.5 on reads it.
#pragma once

#include "onnx_file.hpp"

#include <string>

namespace u2slim {

// Writes the file anew: all numbers in float32, and without what stops one OpenCV or another.
// Where the net's own normalisation goes, `about` says from then on how its input is to be normalised.
// `file` is one that describe_onnx has checked, and `about` what it said. Throws Error for 8 bits that are none of
// export.py's, and for a file that would grow beyond what protobuf holds.
std::string plain_onnx(Bytes file, OnnxFile& about);

}  // namespace u2slim
