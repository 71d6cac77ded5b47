#!/bin/sh
# dist/u2slim-VERSION-linux-MACHINE.tar.gz: the program in one file that needs no other, nets, a sample with the mask
# that PyTorch makes of it, and licences; then proves it in a folder where there is nothing else.
set -eu
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
opencv=$(cpp/opencv.sh)
build=build/bundle
cmake -S cpp -B "$build" -DOpenCV_DIR="$opencv/lib/cmake/opencv5" -DU2SLIM_STATIC=ON >/dev/null
cmake --build "$build" --parallel "${JOBS:-$(nproc)}"

version=$(sed -n 's/^project(u2slim VERSION \([0-9.]*\).*/\1/p' cpp/CMakeLists.txt)
name=u2slim-$version-linux-$(uname -m)
bundle=$build/$name
rm -rf "$bundle"
mkdir -p "$bundle/nets" "$bundle/sample" "$bundle/licences"
cp "$build/u2slim" cpp/verify.sh "$bundle"
# Not those in 8 bits, which are no quicker here: the program computes them in float32.
for net in lite-l lite-m lite-s lite-two-thirds lite-half lite-dwsep isnet-s; do cp "src/u2slim/nets/$net.onnx" "$bundle/nets"; done
# The photograph is NASA's and free of rights.
$python -c "from pathlib import Path; from skimage import data; from u2slim.images.write import write_image
write_image(Path('$bundle/sample/astronaut.png'), data.astronaut())"
$python -m u2slim.app.main cut "$bundle/sample" --net lite-half --runtime torch -o "$build/golden" --mask only
cp -r "$build/golden/masks" "$bundle/golden"
cp LICENSE "$bundle/licences/u2slim-LICENSE"
cp "$opencv"/share/licenses/opencv5/* "$bundle/licences"
# Of the C library, which is in the program: this repository has what it takes to link it anew with another.
cp /usr/share/doc/libc6/copyright "$bundle/licences/glibc-copyright" && cp /usr/share/common-licenses/LGPL-2.1 "$bundle/licences" ||
    echo "The licence of the C library is not where Debian has it: add the LGPL to the bundle's licences/ before you pass it on."
cat >"$bundle/README" <<END
u2slim $version: ./u2slim photo.jpg --net lite-half -o results (all options: --help)
./verify.sh proves that it works here. The program is one file; it needs no other, and no network.
END
mkdir -p dist
tar -czf "dist/$name.tar.gz" --owner=0 --group=0 --sort=name -C "$build" "$name"

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
tar -xzf "dist/$name.tar.gz" -C "$root" --no-same-owner
"$root/$name/verify.sh"
# Here is no shell, no library, no /proc and no network.
isolated="unshare --net --map-root-user"
$isolated true 2>/dev/null || isolated=
if [ -n "$isolated" ] || [ "$(id -u)" = 0 ]; then
    $isolated chroot "$root/$name" /u2slim sample --net lite-half -o /result --compare golden
else
    echo "Not tried in a root folder of its own: neither unshare nor chroot is permitted here."
fi
ls -l "dist/$name.tar.gz"
