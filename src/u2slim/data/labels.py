"""What the label images of semantic sets mean: classes, their names and colours, and the ids that stand for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from u2slim.errors import BadLabels
from u2slim.images.read import Source, read_ids

IGNORE = 255  # the class number of pixels that belong to none: neither trained on nor scored
_UNKNOWN = 254

Colour = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Labels:
    """Class k of a set is called `names[k]`, drawn in `palette[k]`, and stored as `ids[ending][k]`.

    Args:
        ids: by the end of a label file's name (empty: any file) the stored number of each class.
        nothing: by the same ends, the stored numbers that stand for no class; `IGNORE` does everywhere.
        categories: of each class that of several of which it is one, where the set's scores have them.
        instance_sizes: of each class that is counted in things, how many pixels one has in the mean, 0 of others;
            empty where a set's scores do not know of things.
    """

    names: tuple[str, ...]
    palette: tuple[Colour, ...]
    ids: Mapping[str, tuple[int, ...]]
    nothing: Mapping[str, tuple[int, ...]]
    categories: tuple[str, ...] = ()
    instance_sizes: tuple[float, ...] = ()

    def read(self, source: str | Source) -> np.ndarray:
        """A label image as (H, W) uint8 class numbers, `IGNORE` where a pixel has none.

        Raises:
            UserError: the file cannot be read.
            BadLabels: it holds colours, or numbers that stand for nothing here.
        """
        stored = read_ids(source)
        end = self._end(str(source))
        table = np.full(256, _UNKNOWN, np.uint8)
        table[[*self.nothing[end], IGNORE]] = IGNORE
        table[list(self.ids[end])] = range(len(self.names))
        small = stored if stored.dtype == np.uint8 else np.minimum(stored, _UNKNOWN + (stored == IGNORE)).astype("u1")
        classes = cv2.LUT(small, table)
        if (unknown := classes == _UNKNOWN).any():
            strange = np.unique(stored[unknown]).tolist()
            raise BadLabels(
                f"{source} holds the class ids {some(strange)}, which the set does not have: its ids are "
                f"{some(sorted(self.ids[end]), 40)}, and {some(sorted({*self.nothing[end], IGNORE}), 40)} for no "
                "class. Mend or replace it."
            )
        return classes

    def count(self, source: str | Source) -> list[int]:
        """The pixels of each class in a label image, and last those of none; errors as `read`."""
        counts = np.bincount(self.read(source).ravel(), minlength=IGNORE + 1)
        return [*counts[: len(self.names)].tolist(), int(counts[IGNORE])]

    def stored(self, classes_HW: np.ndarray) -> np.ndarray:
        """Class numbers as a label file of the set's first kind stores them, uint8."""
        return np.array(next(iter(self.ids.values())), np.uint8)[classes_HW]

    def _end(self, name: str) -> str:
        stem = name.rpartition(".")[0] or name
        for end in sorted(self.ids, key=len, reverse=True):
            if stem.endswith(end):
                return end
        raise BadLabels(f"{name} does not say what its ids mean: its name must end in {' or '.join(self.ids)}.")


def some(values: Sequence[object], max_shown: int = 8) -> str:
    """The first of them in words."""
    text = ", ".join(map(str, values[:max_shown]))
    return text if len(values) <= max_shown else f"{text} and {len(values) - max_shown} more"


CAMVID = Labels(
    names=(
        "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
    ),
    palette=(
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
        (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
    ids={"": tuple(range(11))},
    nothing={"": (11,)},
)  # fmt: skip

# The 19 classes that Cityscapes trains and scores, of the 34 that its labelIds tell apart.
CITYSCAPES = Labels(
    names=(
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
        "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    ),
    palette=(
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153),
        (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0),
        (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
    ),
    ids={
        "_labelIds": (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33),
        "_labelTrainIds": tuple(range(19)),
    },
    nothing={"_labelIds": (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30), "_labelTrainIds": ()},
    categories=(
        *(2 * ("flat",)), *(3 * ("construction",)), *(3 * ("object",)), *(2 * ("nature",)), "sky", *(2 * ("human",)),
        *(6 * ("vehicle",)),
    ),
    # Of the training images, as the official evaluation has them: github.com/mcordts/cityscapesScripts.
    instance_sizes=(
        *(11 * (0.0,)), 3462.4756337644, 3930.4788056518, 12794.0202738185, 27855.1264367816, 35732.1511111111,
        67583.7075812274, 6298.7200839748, 4672.3249222261,
    ),
)  # fmt: skip

SCENES = Labels(
    names=("sky", "ground", "house", "tree", "ball"),
    palette=((70, 130, 180), (128, 64, 128), (128, 0, 0), (107, 142, 35), (250, 170, 30)),
    ids={"": tuple(range(5))},
    nothing={"": ()},
)
