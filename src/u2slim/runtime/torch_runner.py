"""Nets of torch behind the interface of `runner`."""

import hashlib

import numpy as np
import torch
from torch import nn

from u2slim.errors import UserError
from u2slim.models import Net
from u2slim.models.memory_format import to_memory_format
from u2slim.models.normalise import Normalise
from u2slim.runtime.runner import Runner, threads_each


class TorchRunner(Runner):
    """Runs a net with PyTorch, by default on a GPU where there is one."""

    runtime = "torch"

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
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
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
        return self._answer(image_HW3)[0, 0].sigmoid().cpu().numpy()

    @torch.inference_mode()
    def logits(self, image_HW3: np.ndarray) -> np.ndarray:
        return self._answer(image_HW3)[0].float().cpu().numpy()

    def _answer(self, image_HW3: np.ndarray) -> torch.Tensor:
        image = torch.from_numpy(image_HW3).to(self.device).permute(2, 0, 1)[None]
        return self.net(image)[0]
