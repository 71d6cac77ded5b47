"""Finding photos, and photos without masks as what a net learns from by its own activations."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from u2slim.errors import UserError
from u2slim.images.read import EXTENSIONS, Source, read_image
from u2slim.sizes import Size, sides


def find_photos(source: str | Path, but: Sequence[Path] = (), setting: str = "input") -> list[tuple[Path, Path]]:
    """(photo, relative name without its ending) for a file, or for all photos below a folder.

    Photos that differ only in their ending keep it in the name, so that no result overwrites another. What lies
    below the folders `but` is passed over: the results of an earlier run are no photos. Errors call it `setting`.

    Raises:
        UserError: there is nothing at `source`, or no photo in it.
    """
    source = Path(source).expanduser()
    if not source.exists():
        raise UserError(f"No photo or folder at {setting}={source}.")
    if source.is_file():
        return [(source, Path(source.stem))]
    photos = sorted(
        path
        for path in source.rglob("*")
        if path.suffix.lower() in EXTENSIONS
        and not path.name.startswith(".")
        and not any(path.resolve().is_relative_to(folder.resolve()) for folder in but)
    )
    if not photos:
        raise UserError(f"No photos under {setting}={source} (looked for {', '.join(EXTENSIONS)}).")
    whole = [photo.relative_to(source) for photo in photos]
    names, times = [path.with_suffix("") for path in whole], None
    while times is None or max(times.values()) > 1:  # one that keeps its ending may meet another without: a.jpg(.webp)
        times = Counter(names)
        names = [name if times[name] == 1 else path for name, path in zip(names, whole, strict=True)]
    return list(zip(photos, names, strict=True))


@dataclass(frozen=True)
class Photos:
    """Where photos are, and the side of the square, or [height, width], that they are used at."""

    sources: Sequence[str | Source]
    size: Size

    @classmethod
    def below(cls, folder: str | Path, size: Size, setting: str = "init.folder") -> "Photos":
        """All photos below a folder, which errors call `setting`."""
        return cls([photo for photo, _ in find_photos(folder, setting=setting)], size)

    def __len__(self) -> int:
        return len(self.sources)

    def squares(self, count: int, seed: int) -> Tensor:
        """`count` of them, or all if there are fewer: RGB (N, 3, S, S) uint8, a function of the seed."""
        height, width = sides(self.size)
        chosen = np.random.default_rng(seed).permutation(len(self.sources))[:count]
        images = (read_image(self.sources[index], at_least=4 * max(height, width)) for index in chosen)
        squares = [cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR) for image in images]
        return torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)
