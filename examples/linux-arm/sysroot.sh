#!/bin/sh
# Debian 12's arm64 libraries that the C++ program needs, unpacked into a folder, without installing anything.
#   sysroot.sh FOLDER
set -eu
folder=$(mkdir -p "$1" && cd "$1" && pwd)
apt=$folder/.apt
mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/etc" "$apt/dpkg"
touch "$apt/dpkg/status"
options="-o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o Dir::State=$apt -o Dir::State::Lists=$apt/lists
    -o Dir::State::status=$apt/dpkg/status -o Dir::Cache=$apt -o Dir::Cache::archives=$apt/archives
    -o Debug::NoLocking=1 -o APT::Install-Recommends=false -o APT::Sandbox::User= -q"
# shellcheck disable=SC2086 # options are words
apt-get $options update
# shellcheck disable=SC2086
apt-get $options --download-only --yes install libc6-dev libstdc++-12-dev \
    libopencv-core-dev libopencv-imgproc-dev libopencv-imgcodecs-dev libopencv-dnn-dev libopencv-dev
for package in "$apt"/archives/*.deb; do dpkg-deb --extract "$package" "$folder"; done
# Absolute links lead out of the folder.
find "$folder/usr/lib" "$folder/lib" -type l 2>/dev/null | while read -r link; do
    case $(readlink "$link") in
    /*) ln -sfn "$folder$(readlink "$link")" "$link" ;;
    esac
done
rm -rf "$apt"
