#!/bin/sh
# A minimal static OpenCV 5 from the source distribution of opencv-python-headless, built once and kept in the cache.
# Prints the folder that it is installed in. ASAN=1: one for fuzzing, with AddressSanitizer and without fast paths.
set -eu

version=5.0.0.93
sum=b82f9831daab90b725c7c1ee1b36cb5732c367096ac76d119e64e14eb70d5f3c

cache=${U2SLIM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/u2slim}
kind=static${ASAN:+-asan}
installed=$cache/opencv-$version-$kind
work=$cache/opencv-$version-work
[ -f "$installed/.done" ] && echo "$installed" && exit
mkdir -p "$work"
exec 3>&1 1>&2 # what the tools print is no result

archive=$work/opencv_python_headless-$version.tar.gz
if [ ! -f "$archive" ]; then
    # pip asks a source distribution for its metadata, for which this one needs scikit-build.
    # upstream: https://github.com/pypa/pip/issues/1884; drop when it is closed
    ${PYTHON:-python3} -m venv "$work/pip"
    "$work/pip/bin/pip" install --quiet --disable-pip-version-check setuptools wheel scikit-build
    "$work/pip/bin/pip" download --quiet --disable-pip-version-check --no-deps --no-build-isolation \
        --no-binary opencv-python-headless --dest "$work" "opencv-python-headless==$version"
fi
echo "$sum  $archive" | sha256sum --check --quiet || {
    rm -f "$archive"
    echo "$archive is not the file that this was written for; run again to fetch it anew."
    exit 1
}
source=$work/opencv_python_headless-$version
if [ ! -f "$source/.ready" ]; then
    tar -xf "$archive" -C "$work"
    # The tree calls this function and leaves out the file that has it; nothing here multiplies in half precision.
    # upstream: https://github.com/opencv/opencv/issues/29342; drop when version > 5.0.0
    echo 'bool MLASCALL MlasHGemmSupported(CBLAS_TRANSPOSE, CBLAS_TRANSPOSE) { return false; }' \
        >>"$source/opencv/3rdparty/mlas/lib/compute.cpp"
    touch "$source/.ready"
fi

set -- -DCMAKE_BUILD_TYPE=Release
if [ -n "${ASAN:-}" ]; then
    flags="-fsanitize=address -O1 -g1"
    set -- -DCMAKE_BUILD_TYPE=None -DCMAKE_C_FLAGS="$flags" -DCMAKE_CXX_FLAGS="$flags" -DCPU_DISPATCH=
fi
# Of the image formats those that the program takes; nothing that is loaded at run time.
cmake -G "$(command -v ninja >/dev/null && echo Ninja || echo 'Unix Makefiles')" -S "$source/opencv" -B "$work/$kind" "$@" \
    -DCMAKE_INSTALL_PREFIX="$installed" -DBUILD_SHARED_LIBS=OFF -DBUILD_LIST=core,imgproc,imgcodecs,dnn \
    -DBUILD_TESTS=OFF -DBUILD_PERF_TESTS=OFF -DBUILD_EXAMPLES=OFF -DBUILD_opencv_apps=OFF -DBUILD_JAVA=OFF \
    -DBUILD_ZLIB=ON -DBUILD_JPEG=ON -DBUILD_PNG=ON -DBUILD_WEBP=ON -DBUILD_TIFF=ON -DBUILD_PROTOBUF=ON \
    -DWITH_OPENEXR=OFF -DWITH_OPENJPEG=OFF -DWITH_JASPER=OFF -DWITH_AVIF=OFF -DWITH_IMGCODEC_GIF=OFF \
    -DWITH_IMGCODEC_HDR=OFF -DWITH_IMGCODEC_SUNRASTER=OFF -DWITH_IMGCODEC_PXM=OFF -DWITH_IMGCODEC_PFM=OFF \
    -DWITH_IPP=OFF -DWITH_ITT=OFF -DBUILD_ITT=OFF -DWITH_ADE=OFF -DWITH_OPENCL=OFF -DWITH_GTK=OFF -DWITH_FFMPEG=OFF \
    -DWITH_VA=OFF -DWITH_EIGEN=OFF -DWITH_LAPACK=OFF -DWITH_FLATBUFFERS=OFF -DWITH_UNIFONT=OFF -DWITH_OBSENSOR=OFF \
    -DCV_TRACE=OFF -DDNN_ENABLE_PLUGINS=OFF -DPARALLEL_ENABLE_PLUGINS=OFF -DOPENCV_GENERATE_SETUPVARS=OFF
cmake --build "$work/$kind" --parallel "${JOBS:-$(nproc)}"
cmake --install "$work/$kind" >/dev/null
# It installs the licences of most of what it brings.
for part in 3rdparty/mlas/LICENSE 3rdparty/libwebp/COPYING; do
    cp "$source/opencv/$part" "$installed/share/licenses/opencv5/$(basename "$(dirname "$part")")-$(basename "$part")"
done
cp "$source/opencv/LICENSE" "$installed/share/licenses/opencv5/opencv-LICENSE"
touch "$installed/.done"
rm -rf "${work:?}/$kind" "$source" "$work/pip"
echo "$installed" >&3
