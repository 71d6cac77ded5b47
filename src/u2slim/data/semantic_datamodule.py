"""Images and the classes of their pixels."""

import logging
from collections.abc import Sequence

import numpy as np

from u2slim.data import manifest, scenes
from u2slim.data.datamodule import PairsDataModule, refuse_withheld
from u2slim.data.pairs import Pair
from u2slim.errors import UserError

log = logging.getLogger(__name__)


class SemanticDataModule(PairsDataModule):
    """Pairs of image and label image, whose pixels are the numbers of classes; all of the `val` sets validates.

    Args:
        classes: how many the sets have, which all must have the same; None: whatever they have.
        crop, random_mirror, random_scaling: what `augment` was made of, which the stream of samples depends on.
        options: as `PairsDataModule` says.
    """

    def __init__(
        self,
        *args,
        classes: int | None = None,
        crop: Sequence[int] | None = None,
        random_mirror: bool = True,
        random_scaling: bool = True,
        **options,
    ):
        super().__init__(*args, **options)
        self.recipe = {"crop": list(crop or ()), "mirror": random_mirror, "scaling": random_scaling}
        sets = [*self.train_sets, *self.val_sets, *self.test_sets]
        if masked := [data_set for data_set in sets if not data_set.labels]:
            remedy = "name your classes in the order of their ids, as data.labels=[sky,road,car]"
            remedy = remedy if masked[0].folders else "it is for task=saliency"
            raise UserError(f"{masked[0].title} has masks, not classes: {remedy}.")
        names = ", ".join(data_set.name for data_set in sets)
        if len({data_set.labels.names for data_set in sets}) != 1:
            raise UserError(f"The sets {names or '(none)'} must have the same classes; give one of a kind.")
        refuse_withheld([*self.train_sets, *self.val_sets])
        self.labels = sets[0].labels
        self._pixels: dict[Pair, Sequence[int]] = {}
        if classes not in (None, len(self.labels.names)):
            raise UserError(f"data.classes={classes}, but {names} have {len(self.labels.names)}.")

    def prepare_data(self) -> None:
        if self.generate:
            scenes.write_scenes(self.root)

    def for_task(self) -> dict:
        named = {"names": list(self.labels.names), "palette": [list(colour) for colour in self.labels.palette]}
        return super().for_task() | {"classes": named}

    def state_dict(self) -> dict:
        return super().state_dict() | {f"augmentation {name}": value for name, value in self.recipe.items()}

    def _validation(self, train: manifest.Checked, val: manifest.Checked, bare: manifest.Checked) -> list[Pair]:
        self._pixels = {pair: record.classes[:-1] for pair, record in train}
        self._name_missing(train, "training")
        if val:
            self._name_missing(val, "validation")
        if self.val_list:
            return manifest.named(self.val_list, [*val, *train], [])
        return [pair for pair, _ in val] or manifest.draw(train, self._held_out_count(train), self.seed)

    def class_pixels(self) -> np.ndarray:
        """Of each training image (N) the pixels of each class (C): (N, C) int64."""
        return np.array([self._pixels[pair] for pair in self.train_pairs], np.int64)

    def _name_missing(self, checked: manifest.Checked, use: str) -> None:
        counts = np.sum([record.classes for _, record in checked], axis=0)
        if missing := [name for name, count in zip(self.labels.names, counts[:-1], strict=True) if not count]:
            log.warning("no %s image shows %s", use, ", ".join(missing))
        if not counts[:-1].any():
            raise UserError(f"No {use} image shows any class: all of their pixels are to be ignored. Mend the labels.")

    def on_after_batch_transfer(self, batch: dict, dataloader_idx: int) -> dict:
        """Images (B, 3, H, W) uint8 and labels (B, H, W) int64: batches cross to the device as bytes."""
        return batch | {"image": batch["image"].permute(0, 3, 1, 2), "mask": batch["mask"][:, 0].long()}
