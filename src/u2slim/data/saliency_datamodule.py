"""Images and masks, validated on images that show nothing of training."""

import logging

from u2slim.data import manifest, sample
from u2slim.data.catalog import UNLABELLED
from u2slim.data.check import Record
from u2slim.data.datamodule import PairsDataModule
from u2slim.data.pairs import Pair, Problem, list_unlabelled
from u2slim.errors import UserError
from u2slim.files import user_path

log = logging.getLogger(__name__)


class SaliencyDataModule(PairsDataModule):
    """Pairs of image and mask, validated on images drawn from the `val` sets that show nothing of training.

    Args:
        unlabelled: a folder of further training images, without masks; `limit_train` takes as many of them, too.
        manifest: the file that lists the validation images: used where it is there, else drawn and written.
        repeats_apart: images that look alike are never on both sides, training and validation. Without it, or where
            all training images look alike and no others validate, they may be, and the log warns of it.
        options: as `PairsDataModule` says, which come first.
    """

    def __init__(
        self,
        *args,
        manifest: str | None = None,
        unlabelled: str | None = None,
        repeats_apart: bool = True,
        **options,
    ):
        super().__init__(*args, **options)
        sets = [*self.train_sets, *self.val_sets, *self.test_sets]
        if classed := [data_set for data_set in sets if data_set.labels]:
            raise UserError(f"{classed[0].title} has classes, not masks: it is for task=semantic and its data.")
        if type(repeats_apart) is not bool:
            raise UserError(f"data.repeats_apart={repeats_apart}: give true or false.")
        self.repeats_apart = repeats_apart
        self.manifest = user_path(manifest) if manifest else None
        self.unlabelled = user_path(unlabelled) if unlabelled else None

    def prepare_data(self) -> None:
        if self.generate:
            sample.write_sample_set(self.root)

    def _has_training(self) -> bool:
        return bool(self.train_sets or self.unlabelled)

    def _without_masks(self) -> tuple[list[tuple[Pair, Record]], list[Problem]]:
        return self._usable(list_unlabelled(self.unlabelled), UNLABELLED.title) if self.unlabelled else ([], [])

    def _validation(self, train: manifest.Checked, val: manifest.Checked, bare: manifest.Checked) -> list[Pair]:
        apart = self.repeats_apart
        if not apart:
            log.warning(
                "validation images may look like training images (data.repeats_apart=false): scores are flattering"
            )
        elif not val and manifest.all_alike(train):  # as the frames of a fixed camera may
            apart = False
            log.warning(
                "all %d training images look like those held out: scores are flattering; name other images in data.val",
                len(train),
            )
        rivals = [*train, *bare] if apart else []
        if self.manifest and self.manifest.is_file():
            pairs = manifest.read(self.manifest, [*val, *train], rivals)
            log.info("validation images as listed in %s", self.manifest)
            return pairs
        if self.val_list:
            return manifest.named(self.val_list, [*val, *train], rivals)
        count = self.val_count if val else self._held_out_count(train)
        if not apart:
            pairs = manifest.draw(val or train, count, self.seed)
        elif val:
            pairs = manifest.choose(val, rivals, count, self.seed)
        else:
            pairs = manifest.hold_out(train, bare, count, self.seed)
        if not pairs:
            reason = f": all {len(val or train)} look like a training image" if val or train else ""
            raise UserError(
                f"No images with masks are left to validate on{reason}; name a set that is on disk in data.val, or "
                "validate on images like those of training with data.repeats_apart=false."
            )
        if len(pairs) < count:
            log.warning("only %d validation images were found, %d were asked for", len(pairs), count)
        if self.manifest:
            manifest.write(self.manifest, pairs, dict(val or train))
        return pairs

    def on_after_batch_transfer(self, batch: dict, dataloader_idx: int) -> dict:
        """Images (B, 3, H, W) uint8 and masks (B, 1, H, W) in 0..1: batches cross to the device as bytes."""
        return batch | {"image": batch["image"].permute(0, 3, 1, 2), "mask": batch["mask"].float() / 255}
