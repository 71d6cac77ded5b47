"""How Lightning's checkpoints reach the disk."""

import os
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from u2slim.errors import UserError
from u2slim.files import free_bytes, write_whole


class WholeCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are on the disk whole or not at all, whenever the process or the machine ends."""

    # upstream: https://github.com/Lightning-AI/pytorch-lightning/issues/19970; drop when it is closed and what
    # Lightning writes is synced and renamed: in 2.6.6 fsspec moves it from /tmp, which between disks is a copy

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        def write(partial: Path) -> None:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())

        path = Path(path)
        try:
            write_whole(path, write)
        except (UserError, RuntimeError) as error:  # torch turns some of the system's errors into its own
            raise UserError(
                f"{path} could not be written, with {free_bytes(path) / 1e6:.0f} MB free there. Earlier checkpoints "
                f"are as they were; make room, or choose another folder, and continue with resume=auto. [{error}]"
            ) from error
