"""Images that are the same picture: byte for byte, or re-encoded, resized or slightly changed."""

from collections.abc import Sequence

import numpy as np

from src.data.check import Record

# Among DUTS, ECSSD and their re-encodings true repeats lie within 6 bits and above .97; of the pairs that other
# pictures make within 8 bits, none is above .95.
FARTHEST = 8  # differing bits of the 64-bit perceptual hashes
LEAST_CORRELATION = 0.96  # of the 16x16 gray thumbnails


class Twins:
    """Finds, among the images of `records`, those that show the same picture as another."""

    def __init__(self, records: Sequence[Record]):
        self._image_hashes = np.array([record.image_hash for record in records])
        self._perceptual = np.array([int(record.perceptual or "0", 16) for record in records], np.uint64)
        self._thumbnails = np.array([_standardised(record) for record in records], np.float32)

    def of(self, record: Record, start: int = 0) -> list[int]:
        """The numbers, from `start` on, of the records with the same picture (this one itself among them)."""
        same = self._image_hashes[start:] == record.image_hash
        bits = np.bitwise_count(self._perceptual[start:] ^ np.uint64(int(record.perceptual or "0", 16)))
        close = np.flatnonzero((bits <= FARTHEST) & ~same)
        alike = self._thumbnails[start + close] @ _standardised(record) >= LEAST_CORRELATION
        return sorted(start + index for index in (*np.flatnonzero(same).tolist(), *close[alike].tolist()))


def _standardised(record: Record) -> np.ndarray:
    """The thumbnail with mean 0 and norm 1, so that a product of two is their correlation; 0 where it is flat."""
    pixels = np.frombuffer(bytes.fromhex(record.thumbnail), np.uint8).astype(np.float32)
    pixels -= pixels.mean()
    return pixels / max(float(np.linalg.norm(pixels)), 1.0)
