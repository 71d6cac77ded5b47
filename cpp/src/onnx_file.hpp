// What an ONNX file says of itself, read before OpenCV sees it.
#pragma once

#include "bytes.hpp"
#include "u2slim/segmenter.hpp"

#include <string>
#include <vector>

namespace u2slim {

struct OnnxFile {
    int height, width;
    bool embedded;                     // it takes RGB 0..255 and normalises by itself
    Preprocess preprocess;             // where it does not
    bool says;                         // which of them it is; else `preprocess` is by its looks
    std::string looks;                 // U2-Net or IS-Net; empty if it is neither
    std::vector<std::string> outputs;  // the names that OpenCV may have for the mask, or for the classes' logits
    std::vector<std::string> classes;  // their names, if the net tells classes apart
    std::vector<Colour> palette;       // and their colours
};

// Checks the bytes of an ONNX file. Throws Error for one that is damaged, hostile or no net from an image to a mask.
OnnxFile describe_onnx(Bytes file);

}  // namespace u2slim
