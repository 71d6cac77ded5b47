// What an image file says before its pixels, read before OpenCV sees it.
#pragma once

#include "bytes.hpp"

namespace u2slim {

enum class Kind { jpeg, png, webp, bmp, tiff };

struct Header {
    Kind kind;
    std::int64_t width = 0, height = 0;
    int turn = 1;  // the EXIF orientation
    bool has_alpha = false;
};

// Throws Error, with the reason alone, for what is truncated, animated, too large or of no kind that is read here.
Header read_header(Bytes file);

}  // namespace u2slim
