#include "files.hpp"

#include "u2slim/segmenter.hpp"

#include <opencv2/imgcodecs.hpp>

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>

namespace u2slim {
namespace {

namespace fs = std::filesystem;

bool is_photo(const fs::path& path) {
    static const std::vector<std::string> endings = {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png",
                                                     ".webp", ".bmp", ".tif", ".tiff"};
    std::string ending = path.extension().string();
    std::transform(ending.begin(), ending.end(), ending.begin(), [](unsigned char c) { return std::tolower(c); });
    return path.filename().string()[0] != '.' && std::find(endings.begin(), endings.end(), ending) != endings.end();
}

std::vector<Job> below(const fs::path& folder, const std::vector<fs::path>& but) {
    std::vector<fs::path> photos;
    std::size_t others = 0;
    std::error_code code;
    fs::recursive_directory_iterator entry(folder, fs::directory_options::skip_permission_denied, code), end;
    for (; !code && entry != end; entry.increment(code)) {
        const fs::path canonical = fs::weakly_canonical(entry->path(), code);
        if (std::find(but.begin(), but.end(), canonical) != but.end())
            entry.disable_recursion_pending();
        else if (entry->is_directory(code) || entry->path().filename().string()[0] == '.')
            continue;
        else if (is_photo(entry->path()) && (entry->is_regular_file(code) || !fs::exists(entry->path(), code)))
            photos.push_back(entry->path());
        else
            ++others;
    }
    if (code) return {{folder, {}, folder.string() + " cannot be read (" + code.message() + ")."}};
    if (photos.empty())
        return {{folder, {}, "No photos under " + folder.string() + " (looked for JPEG, PNG, WebP, BMP and TIFF)."}};
    if (others > 0)
        std::fprintf(stderr, "%s: passed over %zu files that are none of these.\n", folder.c_str(), others);
    std::sort(photos.begin(), photos.end());
    std::vector<Job> jobs;
    for (const fs::path& photo : photos) jobs.push_back({photo, photo.lexically_relative(folder), {}});
    return jobs;
}

}  // namespace

std::string find_net(const std::string& net, const std::string& program) {
    std::error_code code;
    if (fs::path(net).has_parent_path() || fs::path(net).extension() == ".onnx" || fs::exists(net, code)) return net;
    fs::path self = fs::read_symlink("/proc/self/exe", code);
    if (code) self = fs::weakly_canonical(program, code);  // where there is no /proc
    const fs::path home = self.parent_path();
    std::vector<fs::path> folders = {home, home / "nets", home.parent_path() / "nets"};
    folders.push_back(home.parent_path().parent_path() / "src/u2slim/nets");  // of a program in a clone's build/cpp
    if (const char* own = std::getenv("U2SLIM_NETS")) folders.insert(folders.begin(), own);
    for (const fs::path& folder : folders)
        if (fs::is_regular_file(folder / (net + ".onnx"), code)) return (folder / (net + ".onnx")).string();
    throw Error("No net " + net + ": there is no such file, and no " + net + ".onnx beside the program or in $U2SLIM_NETS.");
}

std::vector<Job> find_photos(const std::vector<std::string>& inputs, const std::vector<fs::path>& but) {
    std::vector<Job> jobs;
    for (const std::string& input : inputs) {
        std::error_code code;
        if (fs::is_directory(input, code)) {
            const std::vector<Job> found = below(fs::path(input).lexically_normal() / "", but);
            jobs.insert(jobs.end(), found.begin(), found.end());
        } else {
            jobs.push_back({input, fs::path(input).filename(), {}});
        }
    }
    std::map<fs::path, int> times;
    for (const Job& job : jobs) ++times[fs::path(job.name).replace_extension()];
    std::map<fs::path, fs::path> taken;
    for (Job& job : jobs) {
        if (!job.failure.empty()) continue;
        const fs::path stem = fs::path(job.name).replace_extension();
        if (times[stem] == 1) job.name = stem;
        const auto [earlier, is_new] = taken.emplace(job.name, job.photo);
        if (!is_new)
            job.failure = job.photo.string() + " would overwrite the result of " + earlier->second.string() +
                          "; give it a run and an output folder of its own.";
    }
    return jobs;
}

void spare_photos(std::vector<Job>& jobs, const std::vector<fs::path>& folders) {
    std::error_code code;
    std::set<fs::path> photos;
    for (const Job& job : jobs) photos.insert(fs::weakly_canonical(job.photo, code));
    for (Job& job : jobs)
        for (const fs::path& folder : folders)
            if (job.failure.empty() && photos.count(fs::weakly_canonical(folder / (job.name.string() + ".png"), code)))
                job.failure = "The result of " + job.photo.string() + " would overwrite a photo; choose another output folder.";
}

void write_png(const fs::path& path, const cv::Mat& pixels) {
    const fs::path partial = path.parent_path() / ("." + std::to_string(getpid()) + ".part." + path.filename().string());
    std::vector<std::uint8_t> bytes;
    std::error_code code;
    try {
        cv::imencode(".png", pixels, bytes);  // OpenCV's own setting: far quicker than its levels, for as many bytes
    } catch (const cv::Exception& error) {
        throw Error(path.string() + " cannot be written (" + error.what() + ").");
    }
    fs::create_directories(path.parent_path(), code);
    std::ofstream file(partial, std::ios::binary);
    file.write(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    file.close();
    const bool is_written = bool(file);
    if (is_written) fs::rename(partial, path, code);
    if (!is_written || code) {
        const std::string reason = code ? code.message() : "the folder is not writable, or full";
        fs::remove(partial, code);
        throw Error(path.string() + " cannot be written (" + reason + "); choose another folder.");
    }
}

}  // namespace u2slim
