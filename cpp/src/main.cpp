// u2slim: masks and cut-outs of photos by a net in an ONNX file.
#include "files.hpp"
#include "masks.hpp"
#include "photo.hpp"
#include "preprocess.hpp"
#include "u2slim/segmenter.hpp"

#include <opencv2/core/utils/logger.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

namespace {

namespace fs = std::filesystem;
using u2slim::Error;

constexpr int max_workers = 8;  // each holds a photo and a net's activations

const char* const usage =
    "u2slim INPUT... -o DIR [options]\n"
    "Write DIR/masks/NAME.png and DIR/cutouts/NAME.png, the photo with the mask as its transparency, for each photo: files,\n"
    "or folders with all photos below them. For a net that tells classes apart write DIR/classes/NAME.png, whose gray values\n"
    "are the classes' numbers, and DIR/overlays/NAME.png, their colours laid over the photo.\n"
    "\n"
    "      --net NET        an ONNX file; or lite-half for the file lite-half.onnx, which is looked for in $U2SLIM_NETS,\n"
    "                       beside the program, in nets or ../nets from there, and in the clone that it was built in;\n"
    "                       by default lite-two-thirds\n"
    "  -o, --output DIR     where the results go\n"
    "      --mask WHICH     also, the default, or only: then no cut-outs and no overlays are written\n"
    "      --largest        keep only the largest connected part of each mask\n"
    "      --threshold T    make each mask hard: 255 where it is at least T, of 0 to 1, and 0 elsewhere\n"
    "      --no-stretch     do not stretch each mask to 0..255\n"
    "      --class NAMES    for a net that tells classes apart: make masks of these, as car,bus\n"
    "      --mean R,G,B, --std R,G,B, --scale 255|maximum|1\n"
    "                       for a file that does not say how its input is normalised: (x / scale - mean) / std, in RGB\n"
    "      --device NAME    cpu, the default, or cuda\n"
    "      --threads N      use N threads, each for a photo where there are several; by default one for each processor\n"
    "      --compare DIR    compare each mask with DIR/NAME.png: they agree where 99.9 % of pixels are within 1 of 255,\n"
    "                       or of the same class\n"
    "      --time           print how long loading and each photo took\n"
    "      --help, --version\n"
    "\n"
    "Exit status: 0 all photos done, 1 some failed, 2 the command or the model is wrong.\n";

// Options of earlier versions, and what to say in place of them.
const std::map<std::string, const char*> old_words = {
    {"-m", "-m is now --net: say --net FILE."},
    {"--model", "--model is now --net: say --net FILE."},
    {"--backend", "--backend is now --device: say --device cpu or --device cuda."},
    {"--cutout", "--cutout is now the default: leave it out, or say --mask only for masks alone."},
};

struct Settings {
    std::vector<std::string> inputs;
    std::string net = "lite-two-thirds", output, compare;
    u2slim::Options options;
    std::optional<double> threshold;
    std::optional<std::string> mean, deviation, scale;
    bool cutout = true, largest = false, time = false, help = false, version = false;
    int threads = -1;
};

int positive(const std::string& text) {
    if (text.empty() || text.size() > 4 || text.find_first_not_of("0123456789") != text.npos || std::stoi(text) == 0)
        throw Error("--threads takes a number from 1 on, not " + text + ".");
    return std::stoi(text);
}

double fraction(const std::string& text) {
    char* end = nullptr;
    const double number = std::strtod(text.c_str(), &end);
    const bool is_plain = !text.empty() && text.find_first_not_of("0123456789.eE+-") == text.npos && *end == '\0';
    if (!is_plain || !(number >= 0 && number <= 1)) throw Error("--threshold takes a number from 0 to 1, not " + text + ".");
    return number;
}

u2slim::Device device(const std::string& name) {
    if (name == "cpu") return u2slim::Device::cpu;
    if (name == "cuda") return u2slim::Device::cuda;
    throw Error("--device " + name + " is not known; choose cpu or cuda.");
}

bool with_cutout(const std::string& which) {
    if (which != "also" && which != "only") throw Error("--mask " + which + " is not known; choose also or only.");
    return which == "also";
}

std::vector<std::string> names(const std::string& text) {
    std::vector<std::string> found;
    for (std::size_t at = 0; at <= text.size();) {
        const std::size_t comma = std::min(text.find(',', at), text.size());
        const std::size_t first = text.find_first_not_of(' ', at), last = text.find_last_not_of(' ', comma - 1);
        if (first < comma) found.push_back(text.substr(first, last - first + 1));
        at = comma + 1;
    }
    if (found.empty()) throw Error("--class takes the names of classes, with commas between.");
    return found;
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
        if (old_words.count(word)) throw Error(old_words.at(word));
        else if (word == "--net") settings.net = value();
        else if (word == "-o" || word == "--output") settings.output = value();
        else if (word == "--compare") settings.compare = value();
        else if (word == "--mask") settings.cutout = with_cutout(value());
        else if (word == "--largest") settings.largest = true;
        else if (word == "--threshold") settings.threshold = fraction(value());
        else if (word == "--class") settings.options.classes = names(value());
        else if (word == "--mean") settings.mean = value();
        else if (word == "--std") settings.deviation = value();
        else if (word == "--scale") settings.scale = value();
        else if (word == "--device") settings.options.device = device(value());
        else if (word == "--threads") settings.threads = positive(value());
        else if (word == "--no-stretch") settings.options.stretch = false;
        else if (word == "--time") settings.time = true;
        else if (word == "--help" || word == "-h") settings.help = true;
        else if (word == "--version") settings.version = true;
        else if (word == "--") only_inputs = true;
        else throw Error(word + " is not known; u2slim --help lists the options.");
    }
    if (settings.help || settings.version) return settings;
    if (settings.inputs.empty()) throw Error("Say what to cut out: u2slim photo.jpg -o DIR.");
    if (settings.net.empty()) throw Error("--net names no net: give a file, or leave it out for lite-two-thirds.");
    if (settings.output.empty()) throw Error("Say where the results go: -o DIR.");
    if (settings.mean || settings.deviation || settings.scale)
        settings.options.preprocess = u2slim::given_preprocess(settings.mean, settings.deviation, settings.scale);
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
    if (photo.bgra.empty()) {
        const cv::Mat parts[] = {photo.bgr, mask};
        cv::Mat pixels;
        cv::merge(parts, 2, pixels);
        return pixels;
    }
    cv::Mat pixels = photo.bgra.clone();
    for (int y = 0; y < mask.rows; ++y)  // what was transparent in the photo stays so
        for (int x = 0; x < mask.cols; ++x) {
            std::uint8_t& alpha = pixels.at<cv::Vec4b>(y, x)[3];
            alpha = std::uint8_t(alpha * mask.at<std::uint8_t>(y, x) / 255);
        }
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
    if (!has_classes && cv::countNonZero(mask) == 0)
        std::fprintf(stderr, "no subject in %s: the mask is empty\n", job.photo.c_str());
    if (settings.largest) mask = u2slim::largest_part(mask);
    if (settings.threshold) mask = u2slim::hard(mask, *settings.threshold);
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

bool lacks_memory(const std::string& reason) {
    return reason.find("bad_alloc") != reason.npos || reason.find("Insufficient memory") != reason.npos;
}

// How many of the jobs were done, `workers` at a time, each by a net of its own. What runs out of memory beside others
// is tried once more alone.
std::size_t work(u2slim::Segmenter& first, const std::string& net, const std::vector<u2slim::Job>& jobs, int workers,
                 const Settings& settings) {
    std::atomic<std::size_t> next{0}, done{0};
    std::mutex adding;
    std::vector<u2slim::Job> again;
    const auto one = [&](u2slim::Segmenter& segmenter, const u2slim::Job& job, bool alone) {
        try {
            if (!job.failure.empty()) throw Error(job.failure);
            segment(segmenter, job, settings);
            ++done;
        } catch (const std::exception& error) {  // out of memory, too: the next photo may be smaller
            if (alone || !lacks_memory(error.what())) return report(job.photo, error.what());
            const std::lock_guard<std::mutex> lock(adding);
            again.push_back(job);
        }
    };
    const auto all = [&](u2slim::Segmenter& segmenter) {
        for (std::size_t i = next++; i < jobs.size(); i = next++) one(segmenter, jobs[i], workers == 1);
    };
    std::vector<std::thread> others;
    for (int i = 1; i < workers; ++i) others.emplace_back([&] {
        try {
            u2slim::Segmenter own(net, settings.options);
            all(own);
        } catch (const std::exception&) {  // there is no memory for one more net: the others do its part
        }
    });
    all(first);
    for (std::thread& other : others) other.join();
    for (const u2slim::Job& job : again) one(first, job, true);
    return done;
}

int run(const Settings& settings, const std::string& program) {
    const bool is_cpu = settings.options.device == u2slim::Device::cpu;
    if (is_cpu) limit_memory();  // CUDA reserves more than there is
    cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT);
    if (settings.threads > 0) cv::setNumThreads(settings.threads);
    const Clock clock;
    const std::string net = u2slim::find_net(settings.net, program);
    u2slim::Segmenter segmenter(net, settings.options);
    if (!segmenter.note().empty()) std::fprintf(stderr, "%s\n", segmenter.note().c_str());
    if (settings.time) std::printf("%s loaded: %.1f ms\n", net.c_str(), clock.milliseconds());
    const bool has_classes = !segmenter.palette().empty();
    if (has_classes && (settings.largest || settings.threshold))
        throw Error("--largest and --threshold are for masks; this net tells classes apart: leave them out, or choose classes "
                    "with --class.");
    const fs::path output = settings.output;
    std::error_code code;
    fs::create_directories(output, code);
    if (!fs::is_directory(output)) throw Error(settings.output + " is no folder and cannot be made one; choose another.");

    std::vector<fs::path> own;
    for (const char* kind : {"masks", "cutouts", "classes", "overlays"}) own.push_back(fs::weakly_canonical(output / kind));
    std::vector<u2slim::Job> jobs = u2slim::find_photos(settings.inputs, own);
    std::vector<fs::path> results = {output / (has_classes ? "classes" : "masks")};
    if (settings.cutout) results.push_back(output / (has_classes ? "overlays" : "cutouts"));
    u2slim::spare_photos(jobs, results);
    const int threads = std::max(1, cv::getNumThreads());
    const int workers = is_cpu ? int(std::min<std::size_t>(std::min(threads, max_workers), jobs.size())) : 1;
    if (workers > 1) cv::setNumThreads(threads / workers);
    const std::size_t done = work(segmenter, net, jobs, workers, settings);
    std::printf("%zu of %zu photo%s done with OpenCV %s (%s): %s\n", done, jobs.size(), jobs.size() == 1 ? "" : "s", CV_VERSION,
                is_cpu ? "CPU" : "CUDA", output.c_str());
    return done == jobs.size() ? 0 : 1;
}

}  // namespace

int main(int count, char** words) try {
    const Settings settings = parse({words + 1, words + count});
    if (settings.help) return std::fputs(usage, stdout), 0;
    if (settings.version) return std::printf("u2slim %s with OpenCV %s\n", U2SLIM_VERSION, CV_VERSION), 0;
    return run(settings, words[0]);
} catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
}
