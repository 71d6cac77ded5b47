// How pixels become a net's input: done, compared and put in words as src/u2slim/images/preprocess.py does it.
#pragma once

#include "u2slim/segmenter.hpp"

#include <opencv2/core.hpp>

#include <optional>
#include <string>

namespace u2slim {

// What a person says of a net's input. Mean and deviation are three numbers with commas between, or one for all three;
// scale is 255, maximum, or 1 for nets that take 0..255. Throws Error where one is missing or cannot be.
Preprocess given_preprocess(const std::optional<std::string>& mean, const std::optional<std::string>& deviation,
                            const std::optional<std::string>& scale);

// Throws Error for deviations that are not above 0, and for numbers that are none.
void check_preprocess(const Preprocess& preprocess);

// Whether both do the same to pixels, as far as files write the numbers down.
bool same_pixels(const Preprocess& one, const Preprocess& other);

// A description for messages.
std::string shown(const Preprocess& preprocess);

// RGB 0..255, float32, as the net takes it.
void normalise(cv::Mat& rgb, const Preprocess& preprocess);

}  // namespace u2slim
