"""What a test server takes: a label file of each image of a set, in the set's own ids and at the image's own size."""

import logging
import shlex
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.markup import escape
from rich.progress import track

from u2slim.cli import warn_idle
from u2slim.data.data_set import DataSet
from u2slim.data.semantic_datamodule import SemanticDataModule
from u2slim.errors import UserError
from u2slim.evaluation.entries import Model
from u2slim.evaluation.score_classes import check_classes
from u2slim.evaluation.settings import configured_models, warn_of_idle
from u2slim.evaluation.store import code_digest, digest
from u2slim.files import user_path, write_whole
from u2slim.images.read import read_image
from u2slim.images.write import write_image

log = logging.getLogger(__name__)

MADE_BY = ".made_by"  # what of the files in the folder is the work of, so that no two nets' are mixed
PARTIAL = ".*.part.????????*"  # what a killed process may leave


def submit(cfg: DictConfig) -> Path:
    """Write `NAME_labelIds.png` (in other sets than Cityscapes `NAME.png`) of every image that `data` would score.

    The same command continues where it was stopped.

    Raises:
        UserError: not one net and one set with its classes are given, the folder holds other files, or an image cannot
            be read: a server wants all of them.
    """
    warn_of_idle(cfg)
    idle = "report", "pictures", "workers", "store", "refine", "stretch", "latency", "agree_with"
    warn_idle("with submit nothing is scored", *idle)
    data = instantiate(cfg.data)
    if not isinstance(data, SemanticDataModule):
        raise UserError("submit= writes the classes of pixels; choose data with classes: data=cityscapes_test.")
    models, sets = configured_models(cfg), data.test_pairs(withheld=True)
    if len(models) != 1 or len(sets) != 1:
        raise UserError(f"submit= is for one net and one set, not for {len(models)} nets and {len(sets)} sets.")
    ((name, model),), (pairs,) = models.items(), sets.values()
    data_set = pairs[0].data_set
    if data_set.folders:
        raise UserError(
            f"{data_set.title} is a set of your own, without a test server; u2slim cut PHOTOS writes classes, too."
        )
    check_classes(name, model, data_set)
    folder = user_path(cfg.submit)
    _begin(folder, model, data_set)
    ending = next(iter(data_set.labels.ids))
    for pair in track(pairs, escape(f"{name} on {data_set.title}")):
        path = folder / f"{pair.name}{ending}.png"
        if not path.is_file():
            write_image(path, data_set.labels.stored(model.runner.class_map(read_image(pair.image))))
    log.info("%d label files of %s are in %s", len(pairs), data_set.title, folder)
    _say_what_next(folder, data_set, len(pairs))
    return folder


def _begin(folder: Path, model: Model, data_set: DataSet) -> None:
    """Refuse a folder that holds anything but what the same command left."""
    made_by = digest(model.fingerprint(), repr(data_set.labels), data_set.name, code_digest()).hex()
    mark = folder / MADE_BY
    try:
        for partial in folder.glob(PARTIAL):
            partial.unlink()
        found = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        same = mark.is_file() and mark.read_text() == made_by
    except OSError as error:
        raise UserError(f"submit={folder} cannot be used ({error.strerror or error}); give another folder.") from error
    if found and not same:
        raise UserError(
            f"submit={folder} holds files that this net did not make for {data_set.title}, as {found[-1]}: "
            "empty it, or give another folder."
        )
    if found:
        log.info("continuing in %s, which already has some of the files", folder)
    else:
        write_whole(mark, lambda partial: partial.write_text(made_by))


def _say_what_next(folder: Path, data_set: DataSet, count: int) -> None:
    if not data_set.upload:
        return
    if count != data_set.count:
        log.warning("%s has %d images: the server takes only all of them", data_set.title, data_set.count)
    else:
        place = shlex.quote(str(folder))
        log.info("To upload: (cd %s && zip -qr ../results.zip . -i '*.png') and give it to %s", place, data_set.upload)
