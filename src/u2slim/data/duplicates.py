"""Images that are the same picture: byte for byte, or re-encoded, resized, a little changed; not flipped or cropped."""

from collections.abc import Sequence

import numpy as np

from u2slim.data.check import Record

# In DUTS-TR, DUTS-TE and ECSSD repeats lie within 6 bits and above .97. The next within 8 bits are two shots of one
# scene, at .957 and .949, and then chance, at .88.
MAX_DISTANCE = 8  # differing bits of the 64-bit perceptual hashes
MIN_CORRELATION = 0.96  # of the 16x16 gray thumbnails


class DuplicateIndex:
    """Finds, among the images of `records`, those that show the same picture as another."""

    def __init__(self, records: Sequence[Record]):
        self._contents = np.array([_first_64_bits(record.image_hash) for record in records], np.uint64)
        self._perceptual = np.array([_first_64_bits(record.perceptual) for record in records], np.uint64)
        self._thumbnails = np.array([_standardised(record) for record in records], np.float32)

    def find(self, record: Record, end: int | None = None) -> list[int]:
        """The numbers, below `end`, of the records with the same picture (this one itself among them)."""
        if not len(self._contents):
            return []
        same = self._contents[:end] == _first_64_bits(record.image_hash)
        bits = np.bitwise_count(self._perceptual[:end] ^ _first_64_bits(record.perceptual))
        close = np.flatnonzero((bits <= MAX_DISTANCE) & ~same)
        alike = self._thumbnails[close] @ _standardised(record) >= MIN_CORRELATION
        return sorted((*np.flatnonzero(same).tolist(), *close[alike].tolist()))


def _first_64_bits(hexadecimal: str) -> np.uint64:
    return np.uint64(int(hexadecimal[:16], 16))


def _standardised(record: Record) -> np.ndarray:
    """The thumbnail with mean 0 and norm 1, so that a product of two is their correlation; 0 where it is flat."""
    pixels = np.frombuffer(bytes.fromhex(record.thumbnail), np.uint8).astype(np.float32)
    pixels -= pixels.mean()
    return pixels / max(float(np.linalg.norm(pixels)), 1.0)
