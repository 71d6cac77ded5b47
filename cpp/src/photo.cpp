#include "photo.hpp"

#include "image_header.hpp"

#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

#include <algorithm>
#include <cstdlib>
#include <fstream>

namespace u2slim {
namespace {

namespace fs = std::filesystem;

constexpr std::uintmax_t max_bytes = 1u << 31;

// Undoes an EXIF orientation: 5 to 8 lie on a side.
cv::Mat upright(cv::Mat image, int turn) {
    if (turn >= 5) cv::transpose(image, image);
    static const int flips[] = {0, 0, 1, -1, 0, 0, 1, -1, 0};  // by cv::flip's codes
    if (turn != 1 && turn != 5) cv::flip(image, image, flips[turn]);
    return image;
}

// 8 or 16 bits as 8; of 16 the upper half, as Pillow does.
cv::Mat to_8bit(const cv::Mat& image) {
    if (image.depth() == CV_8U) return image;
    if (image.depth() != CV_16U) throw Error("neither 8 nor 16 bits; save it with 8 or 16 bits");
    cv::Mat small(image.size(), CV_8UC(image.channels()));
    for (int y = 0; y < image.rows; ++y) {
        const std::uint16_t* from = image.ptr<std::uint16_t>(y);
        std::uint8_t* to = small.ptr(y);
        for (int x = 0; x < image.cols * image.channels(); ++x) to[x] = std::uint8_t(from[x] >> 8);
    }
    return small;
}

// The gray value to lay transparency over: white, unless that is the colour of much that is opaque, as of a white logo.
int ground(const cv::Mat& bgra) {
    constexpr int grays[] = {255, 0, 128}, near = 48;
    constexpr double max_vanishing = .2;
    const int step = std::max(1, std::max(bgra.rows, bgra.cols) / 512);
    double vanishing[3] = {}, opaque = 0;
    for (int y = 0; y < bgra.rows; y += step)
        for (int x = 0; x < bgra.cols; x += step) {
            const cv::Vec4b& pixel = bgra.at<cv::Vec4b>(y, x);
            if (pixel[3] < 128) continue;
            ++opaque;
            for (int gray = 0; gray < 3; ++gray) {
                int most = 0;
                for (int i = 0; i < 3; ++i) most = std::max(most, std::abs(pixel[i] - grays[gray]));
                vanishing[gray] += most < near;
            }
        }
    if (vanishing[0] <= max_vanishing * opaque) return grays[0];
    return grays[std::min_element(vanishing, vanishing + 3) - vanishing];
}

cv::Mat over_ground(const cv::Mat& bgra) {
    const int gray = ground(bgra);
    cv::Mat bgr(bgra.size(), CV_8UC3);
    for (int y = 0; y < bgra.rows; ++y)
        for (int x = 0; x < bgra.cols; ++x) {
            const cv::Vec4b& from = bgra.at<cv::Vec4b>(y, x);
            for (int i = 0; i < 3; ++i)
                bgr.at<cv::Vec3b>(y, x)[i] = std::uint8_t((from[i] * from[3] + gray * (255 - from[3]) + 127) / 255);
        }
    return bgr;
}

std::vector<std::uint8_t> read_bytes(const fs::path& path) {
    std::error_code code;
    const fs::file_status status = fs::status(path, code);
    if (!fs::exists(status) && fs::is_symlink(fs::symlink_status(path, code)))
        throw Error(path.string() + " is a link that leads nowhere; mend or remove it.");
    if (!fs::exists(status)) throw Error(path.string() + ": no such file.");
    if (fs::is_directory(status)) throw Error(path.string() + " is a folder, not an image.");
    if (!fs::is_regular_file(status)) throw Error(path.string() + " is not a file that can be read.");
    const std::uintmax_t size = fs::file_size(path, code);
    if (!code && size == 0) throw Error(path.string() + " is empty (0 bytes); replace or remove it.");
    if (!code && size > max_bytes) throw Error(path.string() + " is larger than 2 GB; save it smaller.");
    std::vector<std::uint8_t> bytes(code ? 0 : size);
    std::ifstream file(path, std::ios::binary);
    if (code || !file.read(reinterpret_cast<char*>(bytes.data()), bytes.size()))
        throw Error(path.string() + " cannot be read; check its permissions.");
    return bytes;
}

}  // namespace

Photo decode_photo(const std::vector<std::uint8_t>& bytes) {
    const Header header = read_header({bytes.data(), bytes.size()});
    const int colours = cv::IMREAD_COLOR | cv::IMREAD_ANYDEPTH | cv::IMREAD_IGNORE_ORIENTATION;
    const int flags = header.has_alpha ? cv::IMREAD_UNCHANGED : colours;
    cv::Mat image;
    try {
        image = cv::imdecode(bytes, flags);
    } catch (const std::exception& error) {  // OpenCV's own, and those of the standard library on a damaged file
        throw Error(error.what());
    }
    if (image.empty()) throw Error("damaged, or of a kind that OpenCV " CV_VERSION " does not read");
    image = upright(to_8bit(image), header.turn);
    switch (image.channels()) {
        case 1: cv::cvtColor(image, image, cv::COLOR_GRAY2BGR); return {image, {}};
        case 3: return {image, {}};
        case 4: return {over_ground(image), image};
        default: throw Error(std::to_string(image.channels()) + " channels");
    }
}

Photo read_photo(const fs::path& path) {
    const std::vector<std::uint8_t> bytes = read_bytes(path);
    try {
        return decode_photo(bytes);
    } catch (const Error& error) {
        throw Error(path.string() + " cannot be read (" + error.what() + "); replace or remove it.");
    }
}

}  // namespace u2slim
