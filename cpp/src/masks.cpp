#include "masks.hpp"

#include <opencv2/imgproc.hpp>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace u2slim {

cv::Mat largest_part(const cv::Mat& mask) {
    cv::Mat labels;
    std::vector<int> sizes(cv::connectedComponents(mask > 0, labels, 8, CV_32S));
    for (int y = 0; y < mask.rows; ++y)
        for (int x = 0; x < mask.cols; ++x)
            if (mask.at<std::uint8_t>(y, x) >= 128) ++sizes[labels.at<int>(y, x)];
    const auto largest = std::max_element(sizes.begin(), sizes.end());  // the first of equal ones
    cv::Mat part = mask.clone();
    if (*largest > 0) part.setTo(0, labels != int(largest - sizes.begin()));
    return part;
}

cv::Mat hard(const cv::Mat& mask, double threshold) {
    cv::Mat levels(1, 256, CV_8U), result;
    for (int level = 0; level < 256; ++level) levels.at<std::uint8_t>(level) = level >= threshold * 255 ? 255 : 0;
    cv::LUT(mask, levels, result);
    return result;
}

}  // namespace u2slim
