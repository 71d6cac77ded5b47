"""How far two nets' masks agree, cut at 1/2: what can be said of a photo whose truth nobody drew."""

import zlib
from collections.abc import Sequence

import numpy as np

AGREEMENTS = ("agree", "agree_p5", "agree_min")  # IoU over the images: median, 5th percentile, worst


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """The IoU of two masks of booleans; 1 where both are empty."""
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 1.0


def over_images(ious: Sequence[float]) -> dict[str, float]:
    """All of `AGREEMENTS`; nothing of no images."""
    if not len(ious):
        return {}
    found = float(np.median(ious)), float(np.percentile(ious, 5)), float(np.min(ious))
    return dict(zip(AGREEMENTS, found, strict=True))


def packed(mask: np.ndarray) -> bytes:
    """A mask of booleans in a kilobyte or two."""
    return zlib.compress(np.packbits(mask).tobytes(), 1)


def unpacked(data: bytes) -> np.ndarray:
    """The pixels of such a mask in one row, which unset ones may follow, up to seven."""
    return np.unpackbits(np.frombuffer(zlib.decompress(data), np.uint8)).astype(bool)
