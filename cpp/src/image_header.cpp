#include "image_header.hpp"

#include <array>

namespace u2slim {
namespace {

constexpr std::int64_t max_pixels = 1LL << 29;  // as in Python; phones take photos of 200 megapixels
constexpr int orientation_tag = 0x0112;

// The numbers of a TIFF's first directory, of which EXIF data are one, too.
struct Directory {
    Bytes file;
    bool is_big = false;
    std::size_t start = 0, count = 0;

    explicit Directory(Bytes tiff) : file(tiff), is_big(tiff.has(0, "MM")) {
        if ((!is_big && !file.has(0, "II")) || number(2, 2) != 42) throw Error("not a TIFF of the usual kind");
        start = number(4, 4);
        count = number(start, 2);
        file.part(start + 2, count * 12);
    }
    std::uint32_t number(std::size_t at, int size) const { return is_big ? file.big(at, size) : file.little(at, size); }
    // The first of a tag's numbers.
    std::uint32_t get(std::uint32_t tag, std::uint32_t fallback) const {
        for (std::size_t at = start + 2; at < start + 2 + count * 12; at += 12) {
            if (number(at, 2) != tag) continue;
            const int size = number(at + 2, 2) == 3 ? 2 : number(at + 2, 2) == 4 ? 4 : 1;
            const bool is_here = std::uint64_t(number(at + 4, 4)) * size <= 4;
            return number(is_here ? at + 8 : number(at + 8, 4), size);
        }
        return fallback;
    }
    bool is_last() const { return number(start + 2 + count * 12, 4) == 0; }
};

int exif_turn(Bytes exif) {
    try {
        if (exif.has(0, "Exif")) exif = exif.from(6);
        const std::uint32_t turn = Directory(exif).get(orientation_tag, 1);
        return turn >= 1 && turn <= 8 ? int(turn) : 1;
    } catch (const Error&) {
        return 1;  // a photo with broken notes is a photo
    }
}

std::uint32_t crc32(Bytes bytes) {
    static const std::array<std::uint32_t, 256> table = [] {
        std::array<std::uint32_t, 256> made{};
        for (std::uint32_t i = 0; i < 256; ++i) {
            made[i] = i;
            for (int bit = 0; bit < 8; ++bit) made[i] = made[i] >> 1 ^ (made[i] & 1 ? 0xedb88320u : 0);
        }
        return made;
    }();
    std::uint32_t sum = ~0u;
    for (std::size_t i = 0; i < bytes.size; ++i) sum = table[(sum ^ bytes.data[i]) & 255] ^ sum >> 8;
    return ~sum;
}

Header png(Bytes file) {
    Header header{Kind::png};
    std::string chunk;
    for (std::size_t at = 8; chunk != "IEND";) {
        const std::size_t length = file.big(at, 4);
        const Bytes body = file.part(at + 8, length);
        if (crc32(file.part(at + 4, length + 4)) != file.big(at + 8 + length, 4)) throw Error("a checksum is wrong");
        chunk = file.part(at + 4, 4).text();
        if (at == 8) {
            if (chunk != "IHDR") throw Error("its header is missing");
            header.width = body.big(0, 4), header.height = body.big(4, 4);
            header.has_alpha = body.u8(9) & 4;
        }
        if (chunk == "tRNS") header.has_alpha = true;
        if (chunk == "eXIf") header.turn = exif_turn(body);
        if (chunk == "acTL" && body.big(0, 4) != 1)
            throw Error(std::to_string(body.big(0, 4)) + " frames; save one of them as a picture of its own");
        at += 12 + length;
    }
    return header;
}

// The first byte of the next marker behind compressed data.
std::size_t next_marker(Bytes file, std::size_t at) {
    for (;; ++at) {
        const std::uint32_t two = file.big(at, 2);
        if (two > 0xff01 && two != 0xffff && !(two >= 0xffd0 && two <= 0xffd7)) return at;
    }
}

Header jpeg(Bytes file) {
    Header header{Kind::jpeg};
    int channels = 0;
    bool adobe = false;
    for (std::size_t at = next_marker(file, 2); file.u8(at + 1) != 0xd9;) {
        const int marker = file.u8(at + 1);
        const std::size_t length = file.big(at + 2, 2);
        if (length < 2) throw Error("a segment without its length");
        const Bytes body = file.part(at + 4, length - 2);
        if (marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc) {
            if (body.u8(0) != 8) throw Error(std::to_string(body.u8(0)) + " bits a channel; save it with 8");
            header.height = body.big(1, 2), header.width = body.big(3, 2);
            channels = body.u8(5);
        }
        if (marker == 0xe1 && body.has(0, "Exif")) header.turn = exif_turn(body);
        if (marker == 0xee && body.has(0, "Adobe")) adobe = true;
        at = next_marker(file, at + 2 + length);
    }
    // OpenCV takes all such files for Adobe's, whose inks are stored inverted.
    // upstream: not reported as far as known (seen with OpenCV 4.6 and 5.0); drop when imdecode heeds the mark
    if (channels == 4 && !adobe) throw Error("CMYK without Adobe's mark; save it in RGB");
    return header;
}

Header webp(Bytes file) {
    Header header{Kind::webp};
    const Bytes body = file.part(8, file.little(4, 4)).from(4);
    for (std::size_t at = 0; at + 8 <= body.size;) {
        const std::size_t length = body.little(at + 4, 4);
        const Bytes chunk = body.part(at + 8, length);
        const bool has_size = header.width > 0;
        if (body.has(at, "ANIM") || body.has(at, "ANMF"))
            throw Error("an animation; save one of its frames as a picture of its own");
        if (body.has(at, "VP8X")) {
            header.has_alpha = chunk.u8(0) & 0x10;
            header.width = chunk.little(4, 3) + 1, header.height = chunk.little(7, 3) + 1;
        }
        if (body.has(at, "VP8 ") && !has_size)
            header.width = chunk.little(6, 2) & 0x3fff, header.height = chunk.little(8, 2) & 0x3fff;
        if (body.has(at, "VP8L") && !has_size) {
            const std::uint32_t bits = chunk.little(1, 4);
            header.width = (bits & 0x3fff) + 1, header.height = (bits >> 14 & 0x3fff) + 1;
            header.has_alpha = bits >> 28 & 1;
        }
        if (body.has(at, "EXIF")) header.turn = exif_turn(chunk);
        at += 8 + length + length % 2;
    }
    return header;
}

Header bmp(Bytes file) {
    Header header{Kind::bmp};
    const bool is_old = file.little(14, 4) == 12;
    header.width = is_old ? file.little(18, 2) : std::int32_t(file.little(18, 4));
    header.height = is_old ? file.little(20, 2) : std::abs(std::int64_t(std::int32_t(file.little(22, 4))));
    const std::int64_t bits = file.little(is_old ? 24 : 28, 2), packing = is_old ? 0 : file.little(30, 4);
    if (header.width > 0 && header.height <= max_pixels / header.width && (packing == 0 || packing == 3))
        file.from(file.little(10, 4)).part(0, (header.width * bits + 31) / 32 * 4 * header.height);
    return header;
}

Header tiff(Bytes file) {
    Header header{Kind::tiff};
    const Directory first(file);
    header.width = first.get(256, 0), header.height = first.get(257, 0);
    if (!first.is_last()) throw Error("several pages; save one of them as a picture of its own");
    const std::uint32_t bits = first.get(258, 1), photometric = first.get(262, 1);
    if (bits > 16 || first.get(339, 1) != 1) throw Error("32-bit, signed or floating-point pixels; save it with 8 or 16 bits");
    if (bits == 16 && photometric == 0) throw Error("16 bits with white as 0; save it with black as 0");
    if (photometric > 3 && photometric != 6) throw Error("neither gray nor RGB; save it in RGB");
    // libtiff multiplies the colours with it in some files and not in others.
    if (first.get(277, 1) == 2 || first.get(277, 1) > 3) throw Error("transparency in a TIFF; save it as PNG");
    return header;
}

}  // namespace

Header read_header(Bytes file) {
    const auto read = file.has(0, "\xff\xd8\xff")                         ? jpeg
                      : file.has(0, "\x89PNG\r\n\x1a\n")                   ? png
                      : file.has(0, "RIFF") && file.has(8, "WEBP")         ? webp
                      : file.has(0, "BM")                                  ? bmp
                      : file.has(0, "II*") || (file.has(0, "MM") && file.size > 3 && file.u8(3) == '*') ? tiff
                                                                                                        : nullptr;
    if (file.size == 0) throw Error("0 bytes");
    if (!read) throw Error("not a JPEG, PNG, WebP, BMP or TIFF");
    const Header header = read(file);
    if (header.width < 1 || header.height < 1) throw Error("no pixels");
    if (header.width > max_pixels / header.height)
        throw Error(std::to_string(header.width) + "x" + std::to_string(header.height) + " pixels are too many");
    return header;
}

}  // namespace u2slim
