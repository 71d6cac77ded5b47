"""Label files of one's own as the classes' own numbers, whatever they store: ids, palettes, colours, polygons.

Each is turned into a gray PNG of class numbers when it is read. So whoever reads labels need not know of it.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from u2slim.data.labels import IGNORE
from u2slim.data.own_labels import MAX_ID, Stored, hexadecimal, unknown
from u2slim.data.own_masks import DrawnMask, MadeMask, as_png, read_labelme
from u2slim.errors import BadLabels
from u2slim.images.read import read_header, read_ids, read_with

EXACT = (".png", ".bmp", ".tif", ".tiff", ".gif")  # what keeps pixels as they are
_UNKNOWN = 254


@dataclass(frozen=True)
class ClassMask(MadeMask):
    """A label image: gray or with a palette, whose numbers are ids, or in colours.

    Colours whose three channels are equal are ids, too, where no class has a colour.
    """

    stored: Stored

    def read_bytes(self) -> bytes:
        """The gray PNG.

        Raises:
            UserError: the file cannot be read; as BadLabels, it holds what stands for no class.
        """
        if self.path.suffix.lower() not in EXACT:
            raise BadLabels(f"{self.path} has a format that may change labels when it is saved: save them as PNG.")
        if not read_header(self.path).mode.startswith("RGB"):
            return as_png(self._of_ids(read_ids(self.path)))
        pixels_HW3 = read_with(self.path, lambda image: np.asarray(image.convert("RGB")))
        if any(class_ != IGNORE for _, class_ in self.stored.colours):
            return as_png(self._of_colours(pixels_HW3))
        if not (pixels_HW3 == pixels_HW3[..., :1]).all():
            raise BadLabels(f"{self.path} holds colours, but no class has one: declare them, as {{road: '#804080'}}.")
        return as_png(self._of_ids(pixels_HW3[..., 0]))

    def _of_ids(self, ids_HW: np.ndarray) -> np.ndarray:
        classes_HW = _id_table(self.stored)[ids_HW]
        if (strange := classes_HW == _UNKNOWN).any():
            raise unknown(self.path, "ids", np.unique(ids_HW[strange]).tolist())
        return classes_HW

    def _of_colours(self, pixels_HW3: np.ndarray) -> np.ndarray:
        colours, classes = _colour_table(self.stored)
        packed_HW = pixels_HW3.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
        at_HW = np.searchsorted(colours[:-1], packed_HW)
        classes_HW = np.where(colours[at_HW] == packed_HW, classes[at_HW], classes[-1])
        if (strange := classes_HW == _UNKNOWN).any():
            raise unknown(self.path, "colours", [f"#{value:06x}" for value in np.unique(packed_HW[strange])])
        return classes_HW


@dataclass(frozen=True)
class LabelmeClasses(MadeMask):
    """A labelme file, whose shapes' labels are classes; where they overlap, the later one counts."""

    stored: Stored

    def read_bytes(self) -> bytes:
        """The gray PNG.

        Raises:
            UserError: the file is no such one; as BadLabels, it has labels that stand for no class.
        """
        size, shapes = read_labelme(self.path)
        values = self.stored.of_labels([label for label, _ in shapes], self.path)
        outlines = tuple((outline,) for _, outline in shapes)
        return DrawnMask(self.path, size, outlines, tuple(values), self.stored.ground).read_bytes()


@lru_cache(maxsize=8)
def _id_table(stored: Stored) -> np.ndarray:
    """The class number of every id, uint8."""
    table = np.full(MAX_ID + 1, _other(stored), np.uint8)
    for id_, class_ in stored.ids:
        table[id_] = class_
    return table


@lru_cache(maxsize=8)
def _colour_table(stored: Stored) -> tuple[np.ndarray, np.ndarray]:
    """The colours as numbers, in their order, and their class numbers; last, one that there is not, for all others."""
    numbers = [int(hexadecimal(colour)[1:], 16) for colour, _ in stored.colours]
    classes = [class_ for _, class_ in stored.colours]
    return np.array([*numbers, 1 << 24], np.int32), np.array([*classes, _other(stored)], np.uint8)


def _other(stored: Stored) -> int:
    return _UNKNOWN if stored.others is None else stored.others
