// Finding nets and photos, and writing results.
#pragma once

#include <opencv2/core.hpp>

#include <filesystem>
#include <string>
#include <vector>

namespace u2slim {

// The file of a net that is named by its path; or as lite-half, where lite-half.onnx is in $U2SLIM_NETS, beside the
// program, or in nets or ../nets from there. Throws Error for a name without such a file.
std::string find_net(const std::string& net, const std::string& program);

// A photo and the name of its results, relative and without ending; or why there is none.
struct Job {
    std::filesystem::path photo, name;
    std::string failure;
};

// What is to be done for files and folders. Photos that differ only in their ending keep it in the name, so that no
// result overwrites another; what lies below the folders `but`, results of an earlier run, is passed over.
std::vector<Job> find_photos(const std::vector<std::string>& inputs, const std::vector<std::filesystem::path>& but);

// Gives jobs whose result, in one of the folders, would be one of the photos a failure that says so.
void spare_photos(std::vector<Job>& jobs, const std::vector<std::filesystem::path>& folders);

// Writes a picture as PNG, whole or not at all. Throws Error where the folder cannot be written.
void write_png(const std::filesystem::path& path, const cv::Mat& pixels);

}  // namespace u2slim
