// From a photo to its soft mask, or to the classes of its pixels, by a net that export.py wrote, in OpenCV's dnn module.
#pragma once

#include <opencv2/core.hpp>

#include <array>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace u2slim {

// A mistake the user can mend: what() names the cause and the remedy.
class Error : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

using Colour = std::array<std::uint8_t, 3>;  // RGB

enum class Device { cpu, cuda };

struct Options {
    Device device = Device::cpu;
    // Stretch each mask to 0..1 at the net's resolution, as U2-Net's own test script does; 0 where the net sees no subject.
    bool stretch = true;
};

// Runs one net on photos of any size. Not for use by two threads at once.
class Segmenter {
  public:
    // Loads an ONNX file: one of ours, or one of the ecosystem's kind (ImageNet-normalised input, first output).
    // Throws Error for a file that is missing, damaged, hostile or not such a net, and where the device is not there.
    explicit Segmenter(const std::string& model, Options options = {});
    ~Segmenter();
    Segmenter(Segmenter&&) noexcept;
    Segmenter& operator=(Segmenter&&) noexcept;

    // The soft mask, CV_32F in 0..1 and of the photo's own size, of a photo in OpenCV's order, CV_8UC3.
    // Throws Error for another kind of picture, and where the net gives NaN, infinite values or no mask.
    cv::Mat segment(const cv::Mat& bgr8);

    // The colours of the classes that the net tells apart; empty of a net that makes masks.
    const std::vector<Colour>& palette() const;

    // The likeliest class of each pixel, CV_8U and of the photo's own size, by a net with a palette. Throws as segment.
    cv::Mat classes(const cv::Mat& bgr8);

  private:
    struct Net;
    std::unique_ptr<Net> net;
};

}  // namespace u2slim
