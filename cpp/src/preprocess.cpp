#include "preprocess.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <locale>
#include <sstream>
#include <utility>
#include <vector>

namespace u2slim {
namespace {

using Three = std::array<double, 3>;

// Six digits, as files have them.
std::string shown(const Three& numbers) {
    std::ostringstream stream;
    stream.imbue(std::locale::classic());
    stream << numbers[0] << ',' << numbers[1] << ',' << numbers[2];
    return stream.str();
}

Three three_numbers(const std::string& name, const std::string& text) {
    std::vector<double> numbers;
    bool is_right = true;
    for (std::size_t at = 0; at <= text.size();) {
        const std::size_t comma = std::min(text.find(',', at), text.size());
        std::istringstream part(text.substr(at, comma - at));
        part.imbue(std::locale::classic());
        double number = 0;
        is_right = is_right && part >> number && std::isfinite(number) && (part >> std::ws).eof();
        numbers.push_back(number);
        at = comma + 1;
    }
    if (!is_right || (numbers.size() != 1 && numbers.size() != 3))
        throw Error(name + "=" + text + ": give three numbers, for red, green and blue, or one for all of them.");
    return {numbers.front(), numbers[numbers.size() / 2], numbers.back()};
}

}  // namespace

Preprocess given_preprocess(const std::optional<std::string>& mean, const std::optional<std::string>& deviation,
                            const std::optional<std::string>& scale) {
    std::string missing;
    const std::pair<const char*, bool> given[] = {{"mean", !!mean}, {"std", !!deviation}, {"scale", !!scale}};
    for (const auto& [name, is_given] : given)
        if (!is_given) missing += (missing.empty() ? "" : " and ") + std::string(name);
    if (!missing.empty())
        throw Error("mean, std and scale belong together, and " + missing + " is not given: a net that takes pixels / 255 has "
                    "mean 0, std 1 and scale 255.");
    Preprocess preprocess{three_numbers("mean", *mean), three_numbers("std", *deviation), *scale == "maximum"};
    if (*std::min_element(preprocess.std.begin(), preprocess.std.end()) <= 0)
        throw Error("std=" + *deviation + ": deviations are above 0.");
    if (*scale != "255" && *scale != "maximum" && *scale != "1")
        throw Error("scale=" + *scale + " is not known; choose one of: 255, maximum, 1.");
    for (Three* numbers : {&preprocess.mean, &preprocess.std})
        for (double& number : *numbers)
            if (*scale == "1") number /= 255;  // the same, counted in parts of 255
    return preprocess;
}

void check_preprocess(const Preprocess& preprocess) {
    const auto finite = [](double number) { return std::isfinite(number); };
    const auto possible = [](double number) { return std::isfinite(number) && number > 0; };
    if (!std::all_of(preprocess.mean.begin(), preprocess.mean.end(), finite) ||
        !std::all_of(preprocess.std.begin(), preprocess.std.end(), possible))
        throw Error("mean " + shown(preprocess.mean) + " and deviation " + shown(preprocess.std) +
                    " cannot be: deviations are above 0, and all numbers finite.");
}

bool same_pixels(const Preprocess& one, const Preprocess& other) { return shown(one) == shown(other); }

std::string shown(const Preprocess& preprocess) {
    return "mean " + shown(preprocess.mean) + " and deviation " + shown(preprocess.std) + " after a division by " +
           (preprocess.own_maximum ? "its maximum" : "255");
}

void normalise(cv::Mat& rgb, const Preprocess& preprocess) {
    double top = 0;
    cv::minMaxIdx(rgb.reshape(1), nullptr, &top);
    rgb.convertTo(rgb, CV_32F, 1 / (preprocess.own_maximum ? top + 1e-6 : 255.));
    const Three &mean = preprocess.mean, &deviation = preprocess.std;
    cv::subtract(rgb, cv::Scalar(mean[0], mean[1], mean[2]), rgb);
    cv::divide(rgb, cv::Scalar(deviation[0], deviation[1], deviation[2]), rgb);
}

}  // namespace u2slim
