"""Nets of torch behind the interface of `runner`."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from u2slim.errors import UserError
from u2slim.models import Net
from u2slim.models.memory_format import to_memory_format
from u2slim.models.normalise import Normalise
from u2slim.runtime.runner import PHOTOS_AT_ONCE, Runner, threads_each


class TorchRunner(Runner):
    """Runs a net with PyTorch, by default on a GPU where there is one."""

    runtime = "torch"
    together = PHOTOS_AT_ONCE

    def __init__(
        self,
        net: Net,
        size: tuple[int, int],
        stretch: bool = True,
        device: str | None = None,
        streams: int = 1,
        threads: int | None = None,
    ):
        super().__init__(size, stretch, net.labels)
        try:
            self.device = torch.device(device.lower() if device else ("cuda" if torch.cuda.is_available() else "cpu"))
            torch.empty(1, device=self.device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise UserError(f"torch has no device {device} here ({str(error).splitlines()[0]}).") from error
        self.net = nn.Sequential(Normalise(net.preprocess), net).to(self.device).eval()
        if self.device.type == "cpu":
            # As the image comes (H, W, 3): otherwise torch copies from layout to layout around each convolution.
            to_memory_format(self.net, torch.channels_last)
        each = threads_each(streams, threads)
        if each is not None:
            torch.set_num_threads(each)

    def fingerprint(self) -> str:
        total = hashlib.sha256(f"{self.net} {self.net[1].preprocess} {self.size} {self.device.type}".encode())
        for tensor in self.net.state_dict().values():
            total.update(tensor.cpu().contiguous().numpy())
        return total.hexdigest()

    @torch.inference_mode()
    def probability(self, image_HW3: np.ndarray) -> np.ndarray:
        return self._answers([image_HW3])[0, 0].sigmoid().cpu().numpy()

    @torch.inference_mode()
    def logits(self, image_HW3: np.ndarray) -> np.ndarray:
        return self._answers([image_HW3])[0].float().cpu().numpy()

    @torch.inference_mode()
    def infer_group(self, images: Sequence[np.ndarray]) -> np.ndarray:
        answers = self._answers(images)
        return (answers.float() if self.labels else answers[:, 0].sigmoid()).cpu().numpy()

    def _answers(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        image_BHW3 = torch.from_numpy(np.stack(images)).to(self.device)
        return self.net(image_BHW3.permute(0, 3, 1, 2))[0]
