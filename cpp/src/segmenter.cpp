#include "u2slim/segmenter.hpp"

#include "plain_onnx.hpp"
#include "preprocess.hpp"

#include <opencv2/core/version.hpp>
#include <opencv2/dnn.hpp>
#include <opencv2/imgproc.hpp>

#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <locale>
#include <sstream>

namespace u2slim {
namespace {

namespace fs = std::filesystem;

std::vector<char> read_model(const std::string& path) {
    std::error_code code;
    const fs::file_status status = fs::status(path, code);
    if (!fs::exists(status)) throw Error("No model at " + path + ".");
    if (!fs::is_regular_file(status)) throw Error(path + " is a folder or a device, not an ONNX file.");
    std::ifstream file(path, std::ios::binary);
    std::vector<char> bytes(fs::file_size(path, code));
    if (code || !file.read(bytes.data(), bytes.size())) throw Error(path + " cannot be read; check its permissions.");
    return bytes;
}

void require_cuda() {
    if (cv::dnn::getAvailableTargets(cv::dnn::DNN_BACKEND_CUDA).empty())
        throw Error("OpenCV " CV_VERSION " has no CUDA in its dnn module here, or there is no GPU that it can use; "
                    "docs/guides/cuda.md says how to build one that has, or use the CPU: --device cpu.");
}

#if CV_VERSION_MAJOR >= 5
// A file that is gone when the object is.
class TemporaryFile {
  public:
    explicit TemporaryFile(const std::string& bytes) : path((fs::temp_directory_path() / "u2slim-XXXXXX").string()) {
        const int file = mkstemp(path.data());
        if (file < 0) throw Error("no file can be made in " + fs::temp_directory_path().string());
        close(file);
        if (!std::ofstream(path, std::ios::binary).write(bytes.data(), bytes.size()).flush()) {
            fs::remove(path);
            throw Error(fs::temp_directory_path().string() + " is full");
        }
    }
    ~TemporaryFile() {
        std::error_code code;
        fs::remove(path, code);
    }
    TemporaryFile(const TemporaryFile&) = delete;

    std::string path;
};
#endif

cv::dnn::Net load(const std::string& bytes, Device device) {
#if CV_VERSION_MAJOR >= 5
    // The new engine runs on the CPU only, and only the path's overload heeds which one is asked for.
    // upstream: not reported as far as known (seen with OpenCV 5.0.0); drop when readNetFromONNX of bytes heeds it, too
    if (device == Device::cuda) return cv::dnn::readNetFromONNX(TemporaryFile(bytes).path, cv::dnn::ENGINE_CLASSIC);
#else
    (void)device;
#endif
    return cv::dnn::readNetFromONNX(bytes.data(), bytes.size());
}

// Decides how the input of a file is normalised. Returns what was taken, where the file does not say so itself.
std::string settle(OnnxFile& file, const std::optional<Preprocess>& given, const std::string& model) {
    if (given) check_preprocess(*given);
    if (given && file.embedded) throw Error(model + " normalises its input itself: leave out mean, std and scale.");
    if (given && file.says && !same_pixels(*given, file.preprocess))
        throw Error(model + " says " + shown(file.preprocess) + ", and not " + shown(*given) +
                    ": leave out mean, std and scale.");
    if (file.says) return "";
    if (!given && file.looks.empty())
        throw Error(model + " does not say how its input is normalised, and looks neither like a U2-Net nor like an IS-Net: "
                    "give mean, std and scale, for most nets --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --scale 255.");
    if (given) file.preprocess = *given;
    return model + " takes " + shown(file.preprocess) + ", " +
           (given ? "as given." : "as it looks like " + file.looks + "; else give mean, std and scale.");
}

// The numbers of classes by their names; none where none is chosen.
std::vector<int> numbers_of(const std::vector<std::string>& chosen, const std::vector<std::string>& classes) {
    const auto joined = [](const std::vector<std::string>& names) {
        std::string text;
        for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
        return text;
    };
    if (!chosen.empty() && classes.empty())
        throw Error(joined(chosen) + ": this net makes masks of the subject and knows no classes. Choose none, or give a net "
                    "that tells classes apart.");
    std::vector<int> numbers;
    for (const std::string& name : chosen) {
        const auto found = std::find(classes.begin(), classes.end(), name);
        if (found == classes.end()) throw Error(name + " is no class of this net: choose some of " + joined(classes) + ".");
        numbers.push_back(int(found - classes.begin()));
    }
    return numbers;
}

// In float and without antialiasing, as U2-Net's own test script resizes. That is cv::resize of the photo in float, but
// only the rows that the few of the net are made of are turned to float.
cv::Mat resized(const cv::Mat& bgr8, cv::Size size) {
    cv::Mat rows(2 * size.height, bgr8.cols, CV_8UC3), both;
    std::vector<float> below(size.height);
    for (int y = 0; y < size.height; ++y) {
        const float at = float((y + .5) * (double(bgr8.rows) / size.height) - .5);
        const int above = cvFloor(at);
        below[y] = at - float(above);
        bgr8.row(std::clamp(above, 0, bgr8.rows - 1)).copyTo(rows.row(y));
        bgr8.row(std::clamp(above + 1, 0, bgr8.rows - 1)).copyTo(rows.row(size.height + y));
    }
    rows.convertTo(rows, CV_32F);
    cv::resize(rows, both, {size.width, 2 * size.height}, 0, 0, cv::INTER_LINEAR);
    cv::Mat image(size, CV_32FC3);
    for (int y = 0; y < size.height; ++y)
        cv::addWeighted(both.row(y), 1 - below[y], both.row(size.height + y), below[y], 0, image.row(y));
    return image;
}

// (H, W) of three channels as the net's (1, 3, H, W).
cv::Mat planes(const cv::Mat& rgb) {
    const int shape[] = {1, 3, rgb.rows, rgb.cols};
    cv::Mat blob(4, shape, CV_32F);
    std::vector<cv::Mat> channels;
    for (int i = 0; i < 3; ++i) channels.emplace_back(rgb.rows, rgb.cols, CV_32F, blob.ptr<float>(0, i));
    cv::split(rgb, channels);
    return blob;
}

// To 0..1, or to nothing where the net sees no subject: what is there then is of rounding's size, and not to be stretched.
void stretch(cv::Mat& mask) {
    constexpr double nothing = .3;  // as in src/u2slim/images/masks.py
    double low = 0, high = 0;
    cv::minMaxLoc(mask, &low, &high);
    if (high < nothing)
        mask.setTo(0);
    else if (high - low > 1e-6) mask.convertTo(mask, CV_32F, 1 / (high - low), -low / (high - low));
}

}  // namespace

struct Segmenter::Net {
    OnnxFile file;
    Options options;
    cv::dnn::Net net;
    std::string output, note;
    std::vector<int> chosen;  // classes that masks are of
    std::vector<Colour> no_colours;

    bool tells_classes() const { return !file.classes.empty() && chosen.empty(); }

    int planes() const { return std::max(1, int(file.palette.size())); }

    // What the net takes of a photo.
    cv::Mat input(const cv::Mat& bgr8) const {
        if (bgr8.empty() || bgr8.dims != 2 || bgr8.type() != CV_8UC3) throw Error("not a photo of 8 bits in BGR, CV_8UC3.");
        cv::Mat image = resized(bgr8, {file.width, file.height});
        cv::cvtColor(image, image, cv::COLOR_BGR2RGB);
        if (!file.embedded) normalise(image, file.preprocess);
        return u2slim::planes(image);
    }

    // The net's own mask (H, W) of its input (1, 3, H, W), not stretched; or the logits of its classes, one below the other.
    cv::Mat run(const cv::Mat& blob) {
        cv::Mat mask;
        try {
            net.setInput(blob);
            mask = net.forward(output);
        } catch (const std::exception& error) {
            throw Error(std::string("the net cannot be run on OpenCV " CV_VERSION ": ") + error.what());
        }
        // In this order but for sides of 1, or the mask would lie askew.
        std::vector<int> sides, wanted;
        for (int i = 0; i < mask.dims; ++i)
            if (mask.size[i] != 1) sides.push_back(mask.size[i]);
        for (const int side : {planes(), file.height, file.width})
            if (side != 1) wanted.push_back(side);
        if (mask.depth() != CV_32F || sides != wanted || !mask.isContinuous())
            throw Error("the net makes no mask: " + form(mask));
        mask = cv::Mat(planes() * file.height, file.width, CV_32F, mask.ptr<float>()).clone();
        if (!cv::checkRange(mask))
            throw Error("the net gives NaN or infinite values on OpenCV " CV_VERSION "; no mask was made.");
        if (file.palette.empty()) check_probabilities(mask);
        return mask;
    }

    // The net's own mask of such an input, also of the chosen classes.
    cv::Mat small_mask(const cv::Mat& blob) {
        const cv::Mat answer = run(blob);
        return chosen.empty() ? answer : share(answer);
    }

    // The summed probability of the chosen classes, by softmax of the logits.
    cv::Mat share(const cv::Mat& logits) const {
        const auto plane = [&](int number) { return logits.rowRange(number * file.height, (number + 1) * file.height); };
        cv::Mat largest = plane(0).clone(), power, sum(largest.size(), CV_32F, cv::Scalar(0)), part = sum.clone();
        for (int number = 1; number < planes(); ++number) largest = cv::max(largest, plane(number));
        for (int number = 0; number < planes(); ++number) {
            cv::exp(plane(number) - largest, power);
            sum += power;
            if (std::find(chosen.begin(), chosen.end(), number) != chosen.end()) part += power;
        }
        return part / sum;
    }

    std::string form(const cv::Mat& answer) const {
        std::string shape;
        for (int i = 0; i < answer.dims; ++i) shape += (i ? "x" : "") + std::to_string(answer.size[i]);
        return "its output " + file.outputs[0] + " is of shape " + shape + " for an image of " + std::to_string(file.width) +
               "x" + std::to_string(file.height) + ". Export it with export.py.";
    }

    static void check_probabilities(const cv::Mat& mask) {
        double low = 0, high = 0;
        cv::minMaxLoc(mask, &low, &high);
        if (low >= -.01 && high <= 1.01) return;
        std::ostringstream text;
        text.imbue(std::locale::classic());
        text.precision(2);
        text << "the net gives values of " << low << " to " << high << ", no probability: its output needs a sigmoid, or is of "
             << "numbers of classes. Export it with export.py.";
        throw Error(text.str());
    }

    // What is no mask shows here rather than at each photo; and the first run is slow. Of noise, as on one gray even
    // logits may lie in 0..1.
    void try_once() {
        cv::Mat noise(file.height, file.width, CV_8UC3);
        cv::RNG(0).fill(noise, cv::RNG::UNIFORM, 0, 256);
        run(input(noise));
    }
};

Segmenter::Segmenter(const std::string& model, Options options) : net(new Net{}) {
    if (options.device == Device::cuda) require_cuda();
    const std::vector<char> bytes = read_model(model);
    net->options = options;
    const Bytes file{reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()};
    const auto readable = [&](const auto& read) {
        try {
            return read();
        } catch (const Error& error) {
            throw Error(model + " is not an ONNX net from one image to its mask: " + error.what() +
                        ". Export it again with export.py.");
        }
    };
    net->file = readable([&] { return describe_onnx(file); });
    net->chosen = numbers_of(options.classes, net->file.classes);
    net->note = settle(net->file, options.preprocess, model);
    const std::string plain = readable([&] { return plain_onnx(file, net->file); });
    try {
        net->net = load(plain, options.device);
        if (options.device == Device::cuda) {
            net->net.setPreferableBackend(cv::dnn::DNN_BACKEND_CUDA);
            net->net.setPreferableTarget(cv::dnn::DNN_TARGET_CUDA);
        }
        const std::vector<std::string> names = net->net.getUnconnectedOutLayersNames();
        for (const std::string& name : net->file.outputs)
            if (net->output.empty() && std::find(names.begin(), names.end(), name) != names.end()) net->output = name;
        if (net->output.empty() && names.size() == 1) net->output = names[0];
    } catch (const std::exception& error) {  // OpenCV's own, and those of the standard library on a damaged file
        throw Error("OpenCV " CV_VERSION " cannot load " + model + ": " + error.what());
    }
    if (net->output.empty()) throw Error("OpenCV " CV_VERSION " does not find the output of " + model + " that is its mask.");
    try {
        net->try_once();
    } catch (const Error& error) {
        throw Error(model + ": " + error.what());
    }
}

Segmenter::~Segmenter() = default;
Segmenter::Segmenter(Segmenter&&) noexcept = default;
Segmenter& Segmenter::operator=(Segmenter&&) noexcept = default;

cv::Mat Segmenter::segment(const cv::Mat& bgr8) {
    if (net->tells_classes()) throw Error("this net tells classes apart and makes no masks; choose classes for one.");
    cv::Mat mask = net->small_mask(net->input(bgr8));
    if (net->options.stretch) stretch(mask);
    cv::resize(mask, mask, bgr8.size(), 0, 0, cv::INTER_LINEAR);
    return cv::min(cv::max(mask, 0.f), 1.f);
}

const std::string& Segmenter::note() const { return net->note; }

const std::vector<Colour>& Segmenter::palette() const { return net->tells_classes() ? net->file.palette : net->no_colours; }

cv::Mat Segmenter::classes(const cv::Mat& bgr8) {
    if (!net->tells_classes()) throw Error("this net makes masks and tells no classes apart.");
    const cv::Mat logits = net->run(net->input(bgr8));
    cv::Mat best, large, likeliest(bgr8.size(), CV_8U, cv::Scalar(0));
    // One class after the other, since all of a large photo's would not fit into memory.
    for (int number = 0; number < net->planes(); ++number) {
        const int height = net->file.height;
        cv::resize(logits.rowRange(number * height, (number + 1) * height), large, bgr8.size(), 0, 0, cv::INTER_LINEAR);
        if (number == 0) {
            best = large.clone();
        } else {
            likeliest.setTo(number, large > best);
            best = cv::max(best, large);
        }
    }
    return likeliest;
}

}  // namespace u2slim
