#!/bin/sh
# Feeds broken images and models to the program under AddressSanitizer: cpp/fuzz.sh [SECONDS].
# OPENCV=DIR takes that OpenCV in place of the system's; one that has AddressSanitizer itself: OPENCV=$(ASAN=1 cpp/opencv.sh)
set -eu
cd "$(dirname "$0")/.."

seconds=${1:-600}
build=build/fuzz${OPENCV:+-own}
work=$build/work
${PYTHON:-python3} cpp/test/seeds.py "$build/seeds"
cmake -S cpp -B "$build" ${OPENCV:+-DOpenCV_DIR="$OPENCV/lib/cmake/opencv5"} -DCMAKE_BUILD_TYPE=RelWithDebInfo \
    -DU2SLIM_SANITIZE=ON -DU2SLIM_FUZZ=ON >/dev/null
cmake --build "$build" --target u2slim_fuzz --parallel "${JOBS:-$(nproc)}"
rm -rf "$work"
mkdir -p "$work"

# Too much memory is to become an error as it does in the program.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=4096
export UBSAN_OPTIONS=print_stacktrace=1
start=$(date +%s)
end=$((start + seconds))
crashes=0
round=0
while left=$((end - $(date +%s))) && [ "$left" -gt 0 ]; do
    round=$((round + 1))
    # Each round begins anew, so that no crash hides the next.
    [ "$left" -gt 60 ] && left=60
    if ! "$build/u2slim_fuzz" "$build/seeds" "$work" "$left" "$((start + round))" 2>"$work/errors"; then
        crashes=$((crashes + 1))
        cp "$work/current" "$work/crash-$crashes"
        tail -n 200 "$work/errors" >"$work/crash-$crashes.txt"
        grep -m 1 -E "ERROR: AddressSanitizer|runtime error" "$work/errors" || echo "ended at a signal"
    fi
done
echo "$crashes crashes in $seconds s (what caused them: $work)"
[ "$crashes" -eq 0 ]
