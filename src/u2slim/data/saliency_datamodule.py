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
        options: as `PairsDataModule` says, which come first.
    """

    def __init__(self, *args, manifest: str | None = None, unlabelled: str | None = None, **options):
        super().__init__(*args, **options)
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
        if self.manifest and self.manifest.is_file():
            pairs = manifest.read(self.manifest, [*val, *train], [*train, *bare])
            log.info("validation images as listed in %s", self.manifest)
            return pairs
        count = self.val_count if val else min(self.val_count, max(1, len(train) // 10))
        pairs = manifest.choose(val or train, [*train, *bare], count, self.seed)
        if not pairs:
            raise UserError("No images with masks are left to validate on; name a set that is on disk in data.val.")
        if self.manifest:
            manifest.write(self.manifest, pairs, dict(val or train))
        return pairs

    def on_after_batch_transfer(self, batch: dict, dataloader_idx: int) -> dict:
        """Images (B, 3, H, W) uint8 and masks (B, 1, H, W) in 0..1: batches cross to the device as bytes."""
        return batch | {"image": batch["image"].permute(0, 3, 1, 2), "mask": batch["mask"].float() / 255}
