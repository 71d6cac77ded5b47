#!/bin/sh
# The C++ program for 64-bit ARM (Raspberry Pi 3 to 5, Jetson), built on another machine and tried there under qemu.
#   apt install g++-aarch64-linux-gnu cmake qemu-user    then    examples/linux-arm/build.sh
# On the board itself none of this is needed: apt install g++ cmake libopencv-dev, and `make cpp`.
set -eu
cd "$(dirname "$0")/../.."
build=build/linux-arm
sysroot=${SYSROOT:-$PWD/$build/sysroot}
[ -d "$sysroot/usr/include/opencv4" ] || examples/linux-arm/sysroot.sh "$sysroot"
cmake -S cpp -B "$build" -DCMAKE_TOOLCHAIN_FILE="$PWD/examples/linux-arm/toolchain.cmake" -DSYSROOT="$sysroot" \
    -DOpenCV_DIR="$sysroot/usr/lib/aarch64-linux-gnu/cmake/opencv4" >/dev/null
cmake --build "$build" --parallel "${JOBS:-$(nproc)}"

# The mask that PyTorch makes of a photograph, which is NASA's and free of rights; and the program's beside it.
python=${PYTHON:-python3}
mkdir -p "$build/sample"
$python -c "from pathlib import Path; from skimage import data; from u2slim.images.write import write_image
write_image(Path('$build/sample/astronaut.png'), data.astronaut())"
$python -m u2slim.app.main cut "$build/sample" --net lite-dwsep --runtime torch -o "$build/golden" --mask only
libraries=$sysroot/usr/lib/aarch64-linux-gnu
export LD_LIBRARY_PATH= QEMU_LD_PREFIX="$sysroot"
qemu-aarch64 -E LD_LIBRARY_PATH="$libraries:$libraries/blas:$libraries/lapack:$sysroot/lib/aarch64-linux-gnu" \
    "$build/u2slim" "$build/sample" --net "$PWD/src/u2slim/nets/lite-dwsep.onnx" -o "$build/made" --compare "$build/golden/masks"
