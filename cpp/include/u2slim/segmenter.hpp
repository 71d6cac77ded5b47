// From a photo to its soft mask, or to the classes of its pixels, by a net that export.py wrote, in OpenCV's dnn module.
#pragma once

#include <opencv2/core.hpp>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
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

// How RGB 0..255 becomes a net's input: divided by the image's own maximum or by 255, then mean and deviation of R, G, B.
// Of a net that takes 0..255 as it is, both are 255 times smaller than said of it: mean 0 and deviation 1 are 0 and 1/255.
struct Preprocess {
    std::array<double, 3> mean{.485, .456, .406}, std{.229, .224, .225};
    bool own_maximum = true;
};

struct Options {
    Device device = Device::cpu;
    // Stretch each mask to 0..1 at the net's resolution, as U2-Net's own test script does; 0 where the net sees no subject.
    bool stretch = true;
    // Of a file that does not say how its input is normalised. Without it that is as U2-Net's or IS-Net's, if it looks so.
    std::optional<Preprocess> preprocess = std::nullopt;
    // Names of classes, of a net that tells classes apart: then it makes masks of these, their summed probability.
    std::vector<std::string> classes = {};
};

// Runs one net on photos of any size. Not for use by two threads at once.
class Segmenter {
  public:
    // Loads an ONNX file: one of ours, or another from one image to its mask, which is its first output.
    // Throws Error for a file that is missing, damaged, hostile or not such a net, where nobody knows how its input is
    // normalised or the options say otherwise than the file, and where the device or a class is not there.
    explicit Segmenter(const std::string& model, Options options = {});
    ~Segmenter();
    Segmenter(Segmenter&&) noexcept;
    Segmenter& operator=(Segmenter&&) noexcept;

    // What was taken of a file that does not say how its input is normalised, and why: a sentence. Empty if it says so.
    const std::string& note() const;

    // The soft mask, CV_32F in 0..1 and of the photo's own size, of a photo in OpenCV's order, CV_8UC3.
    // Throws Error for another kind of picture, and where the net gives NaN, values outside of 0..1 or no mask.
    cv::Mat segment(const cv::Mat& bgr8);

    // The colours of the classes that the net tells apart; empty of a net that makes masks, and where classes are chosen.
    const std::vector<Colour>& palette() const;

    // The likeliest class of each pixel, CV_8U and of the photo's own size, by a net with a palette. Throws as segment,
    // but takes any finite values.
    cv::Mat classes(const cv::Mat& bgr8);

  private:
    struct Net;
    std::unique_ptr<Net> net;
};

}  // namespace u2slim
