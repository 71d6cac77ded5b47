// Reading photos of any kind into 8 bits, as src/u2slim/images/read.py does.
#pragma once

#include <opencv2/core.hpp>

#include <cstdint>
#include <filesystem>
#include <vector>

namespace u2slim {

struct Photo {
    cv::Mat bgr;   // upright by its EXIF orientation, transparency laid over white, or a gray that it stands out from
    cv::Mat bgra;  // the photo's own colours and transparency, where it has any; else empty
};

// Throws Error for a file that is missing, empty, truncated, animated or not an image.
Photo read_photo(const std::filesystem::path& path);

// The same of the bytes of a file; the error is the reason alone.
Photo decode_photo(const std::vector<std::uint8_t>& bytes);

}  // namespace u2slim
