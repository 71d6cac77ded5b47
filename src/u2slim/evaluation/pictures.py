"""The images of an evaluation that are worth looking at."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from u2slim.data.dataset import load_pair
from u2slim.data.pairs import Pair
from u2slim.errors import UserError
from u2slim.evaluation.classes import ClassResult
from u2slim.evaluation.entries import Model
from u2slim.evaluation.results import Picture
from u2slim.evaluation.score_sets import Scored
from u2slim.evaluation.scoring import IMAGE_SCORES, both_masks
from u2slim.evaluation.store import Store
from u2slim.images.masks import minmax, to_8bit

IOU_INDEX = IMAGE_SCORES.index("IoU")


def worst_and_median(
    models: Mapping[str, Model],
    sets: Mapping[str, Sequence[Pair]],
    scored: Mapping[tuple[str, str], Scored],
    store: Store,
    count: int,
    stretch: bool = True,
) -> list[Picture]:
    """Of each set, the `count` images with the lowest IoU averaged over the models, and as many around the median.

    Masks are made again, because keeping those of all images would fill the disk.
    """
    pictures = []
    for data, pairs in sets.items():
        ious = _ious({name: scored[name, data] for name in models}, store, stretch)
        pair = {pair.name: pair for pair in pairs}
        pictures += [_picture(models, pair[image], kind, ious[image], stretch) for kind, image in _chosen(ious, count)]
    return pictures


def worst_and_median_classes(
    models: Mapping[str, Model], sets: Mapping[str, Sequence[Pair]], results: Sequence[ClassResult], count: int
) -> list[Picture]:
    """The same of sets with classes, by the images' own mIoU."""
    pictures = []
    for pairs in sets.values():
        ious: dict[str, dict[str, float]] = {}
        for result in results:
            if result.data == pairs[0].data_set.title:
                for image, found in result.image_scores.items():
                    ious.setdefault(image, {})[result.model] = found["mIoU"]
        pair = {pair.name: pair for pair in pairs}
        pictures += [_class_picture(models, pair[image], kind, ious[image]) for kind, image in _chosen(ious, count)]
    return pictures


def _chosen(ious: Mapping[str, Mapping[str, float]], count: int) -> Iterator[tuple[str, str]]:
    """(kind, image) of the worst and median images, by their mean over the models."""
    order = sorted(ious, key=lambda image: np.mean(list(ious[image].values())))
    middle = max(count, (len(order) - count) // 2)
    yield from (("worst", image) for image in order[:count])
    yield from (("median", image) for image in order[middle : middle + count])


def _ious(scored: Mapping[str, Scored], store: Store, stretch: bool) -> dict[str, dict[str, float]]:
    """Image -> model -> IoU, of images that are in some average."""
    ious = {}
    for model, one in scored.items():
        for image, scores in one.finished(store, stretch):
            if scores.has_subject:
                ious.setdefault(image, {})[model] = float(scores.values[IOU_INDEX])
    return ious


def _class_picture(models: Mapping[str, Model], pair: Pair, kind: str, ious: Mapping[str, float]) -> Picture:
    photo, truth = load_pair(pair)
    maps = {name: models[name].runner.class_map(photo) for name in ious}
    return Picture(pair.data_set.title, pair.name, kind, photo, truth, maps, dict(ious))


def _picture(models: Mapping[str, Model], pair: Pair, kind: str, ious: Mapping[str, float], stretch: bool) -> Picture:
    (photo, truth), masks = load_pair(pair), {}
    for name in ious:
        model = models[name]
        try:
            prediction = model.mask_files(pair.data_set)[pair.name] if model.folder else model.runner.small_mask(photo)
        except UserError:  # it had scores, so only a file that changed meanwhile comes here
            continue
        refine = model.refine and partial(model.refine, photo)
        mask = both_masks(prediction, truth.shape, refine)[int(stretch)]
        masks[name] = to_8bit(minmax(mask / 255)) if stretch else mask
    return Picture(pair.data_set.title, pair.name, kind, photo, truth, masks, dict(ious))
