#!/bin/sh
# Cuts the sample out and compares with the mask that PyTorch made of it. Needs nothing but this folder.
set -eu
cd "$(dirname "$0")"
result=$(mktemp -d)
trap 'rm -rf "$result"' EXIT
./u2slim sample --net lite-half -o "$result" --compare golden
