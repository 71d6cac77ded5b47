"""One number to choose between nets by, from photos that no table of nets shows: docs/lab/selection.md."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from u2slim.evaluation.agreement import agreement, over_images, packed, unpacked
from u2slim.evaluation.scoring import both_masks, f_and_mae
from u2slim.evaluation.selection_set import Shown, selection_set
from u2slim.evaluation.store import code_digest, digest
from u2slim.files import cache_dir, write_whole
from u2slim.runtime import Runner
from u2slim.zoo import open_net

DENSE = "u2netp"
RUNTIME = "openvino"
# The weights of what the score adds up, chosen in docs/lab/selection.md.
MIXTURE = {(name, number): 0.25 for name in ("duts", "davis") for number in ("maxF", "agree_mean")}


@dataclass(frozen=True)
class Ingredient:
    """A net on one sort of photos: accuracy by the masks, if there are any, and the IoU with the dense net's."""

    images: int
    maxF: float | None
    MAE: float | None
    agree: float
    agree_p5: float
    agree_min: float
    agree_mean: float


@dataclass(frozen=True)
class SelectionScore:
    """What to choose by.

    Args:
        score: the higher the better, 0 for the dense net: maxF and mean agreement on `duts` and `davis`, their mean,
            less the dense net's.
        ingredients: the numbers themselves, by the sort of photos.
    """

    score: float
    ingredients: dict[str, Ingredient]


@dataclass(frozen=True)
class _Answer:
    """A net on one photo: mean absolute error, F at 256 thresholds (NaN without a mask), and the packed mask at 1/2."""

    mae: float
    f_curve: np.ndarray
    cut: bytes


def selection_score(
    net: Runner | str | Path,
    root: str | Path,
    davis: str | Path,
    quick: bool = False,
    seed: int = 0,
    dense: Runner | str | Path = DENSE,
    runtime: str = RUNTIME,
    photos: str | Path | None = None,
    derived: int = 0,
    progress: Callable[[Iterable[Shown]], Iterable[Shown]] = iter,
) -> SelectionScore:
    """How good a net is on the selection set, against the dense net on the same photos.

    The photos stay in memory and the dense net's answers in the cache folder, so that a further net costs its own runs.

    Args:
        net: what runs it, or any name or file that `open_net` takes.
        root: a folder with DUTS-TR; see `selection_set`.
        davis: a folder with frames.
        quick: 60 photos instead of 260.
        seed: draws the derived photos.
        dense: what the net is held against.
        runtime: runs nets that are given by name.
        photos: a folder of further photos, without masks; they are no part of the score.
        derived: so many further photos of each derived sort, which are no part of the score either.
        progress: wraps the photos while the net looks at them.

    Raises:
        UserError: the photos or the net are not there, or a net gives no mask of a photo.
    """
    shown = selection_set(str(root), str(davis), seed, quick, None if photos is None else str(photos), derived)
    theirs = _dense_answers(opened(dense, runtime), shown)
    ours = _answers(net if isinstance(net, Runner) else open_net(net).runner(runtime), progress(shown))
    found, reference = _ingredients(shown, ours, theirs), _ingredients(shown, theirs, theirs)
    return SelectionScore(mixed(found) - mixed(reference), found)


def mixed(found: Mapping[str, Ingredient], mixture: Mapping[tuple[str, str], float] | None = None) -> float:
    """The weighted sum of a net's numbers."""
    return sum(weight * getattr(found[name], number) for (name, number), weight in (mixture or MIXTURE).items())


def opened(net: Runner | str | Path, runtime: str) -> Runner:
    """The net itself where it runs already; the same for the same name, so that its answers are known again."""
    return net if isinstance(net, Runner) else _opened(str(net), runtime)


@lru_cache(maxsize=2)
def _opened(net: str, runtime: str) -> Runner:
    return open_net(net).runner(runtime)


def _answers(runner: Runner, photos: Iterable[Shown]) -> list[_Answer]:
    return [_answer(runner, shown) for shown in photos]


def _answer(runner: Runner, shown: Shown) -> _Answer:
    shape = shown.image.shape[:2]
    _, stretched = both_masks(runner.small_mask(shown.image), shape)
    mae, f_curve, cut = f_and_mae(stretched, np.zeros(shape, np.uint8) if shown.mask is None else shown.mask)
    if shown.mask is None:
        mae, f_curve = np.nan, np.full_like(f_curve, np.nan)
    return _Answer(mae, f_curve, packed(cut))


@lru_cache(maxsize=4)
def _dense_answers(runner: Runner, photos: tuple[Shown, ...]) -> list[_Answer]:
    pixels = (part.tobytes() for shown in photos for part in (shown.image, shown.mask) if part is not None)
    key = digest(code_digest(), runner.fingerprint(), *pixels).hex()
    path = cache_dir() / "selection" / f"{key}.npz"
    if path.is_file():
        with np.load(path) as kept:
            cuts = np.split(kept["cuts"], np.cumsum(kept["sizes"])[:-1])
            return [
                _Answer(float(m), f, c.tobytes()) for m, f, c in zip(kept["maes"], kept["f_curves"], cuts, strict=True)
            ]
    answers = _answers(runner, photos)
    arrays = {
        "maes": np.array([one.mae for one in answers]),
        "f_curves": np.array([one.f_curve for one in answers]),
        "sizes": np.array([len(one.cut) for one in answers]),
        "cuts": np.frombuffer(b"".join(one.cut for one in answers), np.uint8),
    }

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez(file, **arrays)

    write_whole(path, write)
    return answers


def _ingredients(photos: Sequence[Shown], ours: Sequence[_Answer], theirs: Sequence[_Answer]) -> dict[str, Ingredient]:
    at: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, shown in enumerate(photos):
        at[shown.ingredient][shown.group].append(index)
    ious = [agreement(unpacked(a.cut), unpacked(b.cut)) for a, b in zip(ours, theirs, strict=True)]
    return {name: _ingredient(list(groups.values()), ours, ious) for name, groups in at.items()}


def _ingredient(groups: Sequence[Sequence[int]], answers: Sequence[_Answer], ious: Sequence[float]) -> Ingredient:
    """Each group counts as one photo, by its mean."""
    mae = np.mean([np.mean([answers[index].mae for index in group]) for group in groups])
    f_curve = np.mean([np.mean([answers[index].f_curve for index in group], 0) for group in groups], 0)
    agreed = [float(np.mean([ious[index] for index in group])) for group in groups]
    accuracy = (None, None) if np.isnan(mae) else (float(f_curve.max()), float(mae))
    return Ingredient(sum(map(len, groups)), *accuracy, *over_images(agreed).values(), float(np.mean(agreed)))
