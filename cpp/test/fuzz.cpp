// Feeds broken images and models to the library for a while: u2slim_fuzz SEEDS WORK SECONDS NUMBER.
// What it feeds is in WORK/current before it is fed; a crash leaves it there. NUMBER begins the random numbers.
#include "../src/photo.hpp"
#include "u2slim/segmenter.hpp"

#include <opencv2/core/utils/logger.hpp>

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <random>

namespace fs = std::filesystem;
using Data = std::vector<std::uint8_t>;

std::mt19937 generator;

std::size_t below(std::size_t count) { return count ? generator() % count : 0; }

Data mutated(Data data, const std::vector<Data>& seeds) {
    static const std::uint8_t odd[] = {0, 1, 2, 0x7f, 0x80, 0xfe, 0xff, 4, 16, 64};
    for (std::size_t times = 1 + below(below(2) ? 3 : 20); times-- > 0 && !data.empty();) {
        const std::size_t at = below(below(2) ? std::min<std::size_t>(data.size(), 200) : data.size());
        const std::size_t count = std::min(1 + below(16), data.size() - at);
        const Data& other = seeds[below(seeds.size())];
        const std::size_t from = below(other.size()), taken = std::min(count, other.size() - from);
        switch (below(16)) {
            case 0: data.resize(at); break;
            case 1: data.erase(data.begin() + at, data.begin() + at + count); break;
            case 2: data.insert(data.begin() + at, other.begin() + from, other.begin() + from + taken); break;
            case 3: std::copy_n(other.begin() + from, taken, data.begin() + at); break;
            case 4: std::fill_n(data.begin() + at, count, odd[below(sizeof odd)]); break;
            case 5: case 6: case 7: data[at] ^= 1u << below(8); break;
            case 8: case 9: case 10: data[at] = odd[below(sizeof odd)]; break;
            case 11: case 12: data[at] = std::uint8_t(data[at] + below(3) - 1); break;
            default: data[at] = std::uint8_t(generator());
        }
    }
    return data;
}

// Puts the checksums of a PNG right again, without which nothing of it would be looked at.
void mend_png(Data& data) {
    if (data.size() < 8 || data[0] != 0x89) return;
    const auto number = [&](std::size_t i) {
        return std::size_t(data[i]) << 24 | data[i + 1] << 16 | data[i + 2] << 8 | data[i + 3];
    };
    for (std::size_t at = 8; at + 12 <= data.size() && number(at) <= data.size() - at - 12; at += 12 + number(at)) {
        std::uint32_t sum = ~0u;
        for (std::size_t i = at + 4; i < at + 8 + number(at); ++i) {
            sum ^= data[i];
            for (int bit = 0; bit < 8; ++bit) sum = sum >> 1 ^ (sum & 1 ? 0xedb88320u : 0);
        }
        for (int i = 0; i < 4; ++i) data[at + 8 + number(at) + i] = std::uint8_t(~sum >> (24 - 8 * i));
    }
}

int main(int, char** words) {
    const fs::path folder = words[1], current = fs::path(words[2]) / "current";
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(std::atoi(words[3]));
    generator.seed(std::atoi(words[4]));
    cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT);
    cv::setNumThreads(1);
    std::vector<Data> images, models;
    for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
        std::ifstream file(entry.path(), std::ios::binary);
        Data data{std::istreambuf_iterator<char>(file), {}};
        (entry.path().extension() == ".onnx" ? models : images).push_back(std::move(data));
    }
    const cv::Mat photo(24, 16, CV_8UC3, cv::Scalar(10, 100, 200));
    std::size_t tried[2] = {}, taken[2] = {};
    while (std::chrono::steady_clock::now() < end) {
        const bool is_model = below(3) == 0;
        const std::vector<Data>& seeds = is_model ? models : images;
        Data data = mutated(seeds[below(seeds.size())], seeds);
        if (below(8)) mend_png(data);
        std::ofstream(current, std::ios::binary).write(reinterpret_cast<const char*>(data.data()), data.size());
        ++tried[is_model];
        u2slim::Options options;
        if (below(8) == 0) options.preprocess = u2slim::Preprocess();
        alarm(60);  // what takes longer counts as a crash
        try {
            if (is_model)
                u2slim::Segmenter(current.string(), options).segment(photo);
            else
                u2slim::decode_photo(data);
            ++taken[is_model];
        } catch (const u2slim::Error&) {
        }
    }
    std::printf("%zu images, %zu of them read; %zu models, %zu of them run\n", tried[0], taken[0], tried[1], taken[1]);
}
