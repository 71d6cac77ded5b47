// Finding photos and writing results, as src/photos.py and src/files.py do.
#pragma once

#include <opencv2/core.hpp>

#include <filesystem>
#include <string>
#include <vector>

namespace u2slim {

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
