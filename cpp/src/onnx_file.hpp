// What an ONNX file says of itself, read before OpenCV sees it.
#pragma once

#include "bytes.hpp"
#include "u2slim/segmenter.hpp"

#include <array>
#include <string>
#include <vector>

namespace u2slim {

// How RGB 0..255 becomes the net's input: divided by the image's own maximum or by 255, then mean and deviation.
struct Preprocess {
    std::array<double, 3> mean{.485, .456, .406}, std{.229, .224, .225};
    bool own_maximum = true;
};

struct OnnxFile {
    int height, width;
    bool embedded;                     // it takes RGB 0..255 and normalises by itself
    Preprocess preprocess;             // where it does not
    std::vector<std::string> outputs;  // the names that OpenCV may have for the mask, or for the classes' logits
    std::vector<Colour> palette;       // of the classes, if the net tells them apart
};

// Checks the bytes of an ONNX file. Throws Error for one that is damaged, hostile or no net from an image to a mask.
OnnxFile describe_onnx(Bytes file);

}  // namespace u2slim
