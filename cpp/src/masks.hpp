// What becomes of a mask in 8 bits before it is written, to the pixel as src/u2slim/images/masks.py does it.
#pragma once

#include <opencv2/core.hpp>

namespace u2slim {

// The mask without all but one of its parts: pixels above 0 that touch at a side or a corner. Kept is the part that has the
// most pixels from 128 on. A mask without such pixels stays as it is.
cv::Mat largest_part(const cv::Mat& mask);

// 255 where the mask is at least threshold * 255, else 0.
cv::Mat hard(const cv::Mat& mask, double threshold);

}  // namespace u2slim
