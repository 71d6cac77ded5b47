// u2slim: masks and cut-outs of photos by a net that export.py wrote.
#include "files.hpp"
#include "photo.hpp"
#include "u2slim/segmenter.hpp"

#include <opencv2/core/utils/logger.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>

namespace {

namespace fs = std::filesystem;
using u2slim::Error;

const char* const usage =
    "u2slim INPUT... -m MODEL.onnx -o DIR [options]\n"
    "Write DIR/masks/NAME.png for each photo: files, or folders with all photos below them; of a net that tells classes\n"
    "apart DIR/classes/NAME.png, whose gray values are the classes' numbers.\n"
    "\n"
    "  -m, --model FILE     a net that export.py wrote\n"
    "  -o, --output DIR     where the results go\n"
    "      --cutout         also write DIR/cutouts/NAME.png, the photo with the mask as its transparency;\n"
    "                       of classes DIR/overlays/NAME.png, their colours laid over the photo\n"
    "      --backend NAME   cpu, the default, or cuda\n"
    "      --no-stretch     do not stretch each mask to 0..255\n"
    "      --compare DIR    compare each mask with DIR/NAME.png: they agree where 99.9 % of pixels are within 1 of 255,\n"
    "                       or of the same class\n"
    "      --threads N      use N threads; by default as many as there are processors\n"
    "      --time           print how long loading and each photo took\n"
    "      --help, --version\n"
    "\n"
    "Exit status: 0 all photos done, 1 some failed, 2 the command or the model is wrong.\n";

struct Settings {
    std::vector<std::string> inputs;
    std::string model, output, compare;
    u2slim::Options options;
    bool cutout = false, time = false, help = false, version = false;
    int threads = -1;
};

int positive(const std::string& text) {
    if (text.empty() || text.size() > 4 || text.find_first_not_of("0123456789") != text.npos || std::stoi(text) == 0)
        throw Error("--threads takes a number from 1 on, not " + text + ".");
    return std::stoi(text);
}

u2slim::Backend backend(const std::string& name) {
    if (name == "cpu") return u2slim::Backend::cpu;
    if (name == "cuda") return u2slim::Backend::cuda;
    throw Error("--backend " + name + " is not known; choose cpu or cuda.");
}

Settings parse(const std::vector<std::string>& words) {
    Settings settings;
    bool only_inputs = false;
    for (std::size_t i = 0; i < words.size(); ++i) {
        if (only_inputs || words[i].size() < 2 || words[i][0] != '-') {
            settings.inputs.push_back(words[i]);
            continue;
        }
        const std::size_t equals = words[i].rfind("--", 0) == 0 ? words[i].find('=') : std::string::npos;
        const std::string word = words[i].substr(0, equals);
        const auto value = [&] {
            if (equals != std::string::npos) return words[i].substr(equals + 1);
            if (i + 1 == words.size()) throw Error(word + " needs a value.");
            return words[++i];
        };
        if (word == "-m" || word == "--model") settings.model = value();
        else if (word == "-o" || word == "--output") settings.output = value();
        else if (word == "--compare") settings.compare = value();
        else if (word == "--backend") settings.options.backend = backend(value());
        else if (word == "--threads") settings.threads = positive(value());
        else if (word == "--no-stretch") settings.options.stretch = false;
        else if (word == "--cutout") settings.cutout = true;
        else if (word == "--time") settings.time = true;
        else if (word == "--help" || word == "-h") settings.help = true;
        else if (word == "--version") settings.version = true;
        else if (word == "--") only_inputs = true;
        else throw Error(word + " is not known; u2slim --help lists the options.");
    }
    if (settings.help || settings.version) return settings;
    if (settings.inputs.empty()) throw Error("Say what to cut out: u2slim photo.jpg -m MODEL.onnx -o DIR.");
    if (settings.model.empty()) throw Error("Say which net to use: -m MODEL.onnx.");
    if (settings.output.empty()) throw Error("Say where the results go: -o DIR.");
    return settings;
}

// A damaged or hostile file may ask for any amount; beyond what the machine has, that becomes an error.
void limit_memory() {
    const rlim_t most = rlim_t(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGE_SIZE);
    rlimit limit;
    if (getrlimit(RLIMIT_DATA, &limit) != 0 || limit.rlim_cur <= most) return;
    limit.rlim_cur = most;
    setrlimit(RLIMIT_DATA, &limit);
}

class Clock {
  public:
    double milliseconds() const { return std::chrono::duration<double, std::milli>(now() - start).count(); }

  private:
    static std::chrono::steady_clock::time_point now() { return std::chrono::steady_clock::now(); }
    std::chrono::steady_clock::time_point start = now();
};

cv::Mat cutout(const u2slim::Photo& photo, const cv::Mat& mask) {
    std::vector<cv::Mat> channels;
    cv::split(photo.bgra.empty() ? photo.bgr : photo.bgra, channels);
    channels.resize(4);
    if (photo.bgra.empty()) {
        channels[3] = mask;
    } else {  // what was transparent in the photo stays so
        for (int y = 0; y < mask.rows; ++y)
            for (int x = 0; x < mask.cols; ++x) {
                std::uint8_t& alpha = channels[3].at<std::uint8_t>(y, x);
                alpha = std::uint8_t(alpha * mask.at<std::uint8_t>(y, x) / 255);
            }
    }
    cv::Mat pixels;
    cv::merge(channels, pixels);
    return pixels;
}

cv::Mat overlay(const cv::Mat& bgr, const cv::Mat& classes, const std::vector<u2slim::Colour>& palette) {
    cv::Mat pixels = bgr.clone();
    for (int y = 0; y < bgr.rows; ++y)
        for (int x = 0; x < bgr.cols; ++x) {
            const u2slim::Colour& rgb = palette[classes.at<std::uint8_t>(y, x)];
            cv::Vec3b& pixel = pixels.at<cv::Vec3b>(y, x);
            for (int i = 0; i < 3; ++i) pixel[i] = std::uint8_t((pixel[i] + rgb[2 - i] + 1) / 2);
        }
    return pixels;
}

// Pixels agree that are at most `within` apart.
void compare(const cv::Mat& mask, const fs::path& path, int within) {
    const cv::Mat golden = fs::exists(path) ? cv::imread(path.string(), cv::IMREAD_GRAYSCALE) : cv::Mat();
    if (golden.empty()) throw Error("there is no mask to compare with at " + path.string() + ".");
    if (golden.size() != mask.size()) throw Error("the mask is of another size than " + path.string() + ".");
    cv::Mat difference;
    cv::absdiff(mask, golden, difference);
    const double share = double(cv::countNonZero(difference <= within)) / double(mask.total());
    double largest = 0;
    cv::minMaxLoc(difference, nullptr, &largest);
    std::printf("%s: %.4f %% of pixels within %d, largest difference %.0f\n", path.c_str(), 100 * share, within, largest);
    if (share < .999) throw Error("the mask differs from " + path.string() + ".");
}

void segment(u2slim::Segmenter& segmenter, const u2slim::Job& job, const Settings& settings) {
    const fs::path output = settings.output, file = job.name.string() + ".png";
    const u2slim::Photo photo = u2slim::read_photo(job.photo);
    const Clock clock;
    const bool has_classes = !segmenter.palette().empty();
    const cv::Mat found = has_classes ? segmenter.classes(photo.bgr) : segmenter.segment(photo.bgr);
    if (settings.time) std::printf("%s: %.1f ms\n", job.photo.c_str(), clock.milliseconds());
    cv::Mat mask;
    found.convertTo(mask, CV_8U, has_classes ? 1 : 255);
    u2slim::write_png(output / (has_classes ? "classes" : "masks") / file, mask);
    if (settings.cutout && has_classes)
        u2slim::write_png(output / "overlays" / file, overlay(photo.bgr, mask, segmenter.palette()));
    else if (settings.cutout)
        u2slim::write_png(output / "cutouts" / file, cutout(photo, mask));
    if (!settings.compare.empty()) compare(mask, settings.compare / file, has_classes ? 0 : 1);
}

void report(const fs::path& photo, const std::string& reason) {
    const bool is_named = reason.find(photo.string()) != std::string::npos;
    std::fprintf(stderr, "%s\n", (is_named ? reason : photo.string() + ": " + reason).c_str());
}

int run(const Settings& settings) {
    if (settings.options.backend == u2slim::Backend::cpu) limit_memory();  // CUDA reserves more than there is
    cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT);
    if (settings.threads > 0) cv::setNumThreads(settings.threads);
    const Clock clock;
    u2slim::Segmenter segmenter(settings.model, settings.options);
    if (settings.time) std::printf("%s loaded: %.1f ms\n", settings.model.c_str(), clock.milliseconds());
    const fs::path output = settings.output;
    std::error_code code;
    fs::create_directories(output, code);
    if (!fs::is_directory(output)) throw Error(settings.output + " is no folder and cannot be made one; choose another.");

    std::vector<fs::path> own;
    for (const char* kind : {"masks", "cutouts", "classes", "overlays"}) own.push_back(fs::weakly_canonical(output / kind));
    std::vector<u2slim::Job> jobs = u2slim::find_photos(settings.inputs, own);
    const bool has_classes = !segmenter.palette().empty();
    std::vector<fs::path> results = {output / (has_classes ? "classes" : "masks")};
    if (settings.cutout) results.push_back(output / (has_classes ? "overlays" : "cutouts"));
    u2slim::spare_photos(jobs, results);
    std::size_t done = 0;
    for (const u2slim::Job& job : jobs) try {
            if (!job.failure.empty()) throw Error(job.failure);
            segment(segmenter, job, settings);
            ++done;
        } catch (const std::exception& error) {  // out of memory, too: the next photo may be smaller
            report(job.photo, error.what());
        }
    std::printf("%zu of %zu photos done with OpenCV %s (%s): %s\n", done, jobs.size(), CV_VERSION,
                settings.options.backend == u2slim::Backend::cuda ? "CUDA" : "CPU", output.c_str());
    return done == jobs.size() ? 0 : 1;
}

}  // namespace

int main(int count, char** words) try {
    const Settings settings = parse({words + 1, words + count});
    if (settings.help) return std::fputs(usage, stdout), 0;
    if (settings.version) return std::printf("u2slim %s with OpenCV %s\n", U2SLIM_VERSION, CV_VERSION), 0;
    return run(settings);
} catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
}
