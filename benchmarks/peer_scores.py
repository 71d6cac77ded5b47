"""What benchmarks.peers scores of each tool: its masks of ECSSD's first 200 photos, by our evaluation."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from u2slim.data.catalog import get_data_set
from u2slim.data.pairs import Pair, find_pairs
from u2slim.errors import UserError
from u2slim.evaluation.entries import open_models
from u2slim.evaluation.score_sets import score_all, summarise
from u2slim.evaluation.store import Store

SCORES = ("maxF", "bIoU")


def lay_out(root: Path, photos: Path, count: int) -> list[Pair]:
    """The set's first pairs, with their photos in a folder of their own.

    Raises:
        UserError: the set is not in `root`, or not as it is published.
    """
    pairs = (find_pairs(get_data_set("ecssd"), root) or [])[:count]
    if not pairs:
        raise UserError(f"ECSSD is not in {root}: give the folder that ECSSD is in.")
    photos.mkdir(parents=True)
    for pair in pairs:
        shutil.copy(str(pair.image), photos)
    return pairs


def keep_masks(pictures: Path, masks: Path) -> None:
    """The masks of cut-outs, which are their transparency, or of plain masks, as gray PNG files."""
    masks.mkdir(parents=True)
    for path in sorted(pictures.glob("*.png")):
        with Image.open(path) as picture:
            is_clear = "A" in picture.getbands() or "transparency" in picture.info
            gray = picture.convert("RGBA").getchannel("A") if is_clear else picture.convert("L")
            gray.save(masks / path.name)


def scores(masks: Mapping[str, Path], pairs: Sequence[Pair], folder: Path) -> dict[str, dict[str, float]]:
    """Of each peer's folder of masks, by name; photos that a peer has no mask of are an error."""
    models = open_models({name: str(place) for name, place in masks.items()})
    store = Store(folder / "scores.sqlite")
    found = {}
    for (name, _), scored in score_all(models, {"ecssd": pairs}, store, (True,)).items():
        result = summarise(name, scored, store, True)
        if result.left_out:
            raise UserError(f"{name} has no usable mask of {', '.join(result.left_out)}.")
        found[name] = {score: result.scores[score] for score in SCORES}
    return found
