"""What all runtimes of files share: the file checked, the input that it expects, one try."""

import hashlib
import threading
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from u2slim.errors import UserError
from u2slim.images.preprocess import Preprocess
from u2slim.runtime.onnx_reader import Graph
from u2slim.runtime.runner import PHOTOS_AT_ONCE, Runner, threads_each
from u2slim.sizes import Size


class FileRunner(Runner):
    """What the runtimes of files share: checking the file, feeding the input it expects, trying it once.

    A file of another project is taken to be of the ecosystem's kind: U2-Net's or IS-Net's input, first output. A file
    for a number of photos is always given so many: fewer are filled up by the last of them.

    Args:
        path: the file.
        stretch: see `Runner`.
        streams: so many threads may call it at once.
        threads: that all of them together may take; None: one a core.
        size: to run a file at that leaves its size open; None: what the file says.
        preprocess: of a file that does not say how its input is made, where that is known.
        device: `cpu`, or another by the runtime's own name for it.
        graph: what is known of the file already.

    Raises:
        UserError: the runtime cannot run the file, has no such device, or the file's first output is no mask.
    """

    begins_alone = False  # whether a first call must be over before threads may call it at once

    def __init__(
        self,
        path: str | Path,
        stretch: bool = True,
        streams: int = 1,
        threads: int | None = None,
        size: Size | None = None,
        preprocess: Preprocess | None = None,
        device: str = "cpu",
        graph: Graph | None = None,
    ):
        graph = graph or self.read(Path(path), size, preprocess)
        super().__init__(graph.size, stretch, graph.labels)
        self.check(graph)
        self.input, self.output, self.digest = graph.input, graph.output, hashlib.sha256(graph.data).hexdigest()
        self.preprocess, self.batch = graph.preprocess, graph.batch
        self.together = self.batch or PHOTOS_AT_ONCE
        self.threads, self.device = threads, device.lower()
        self.own = threading.local()  # what each thread that calls needs for itself
        try:
            self.load(graph.data, streams, threads_each(streams, threads))
            if graph.proved and not self.begins_alone:
                return
            # Noise, as on one gray even logits may lie in 0..1.
            noise_HW3 = np.random.default_rng(0).integers(0, 256, (*self.size, 3)).astype(np.float32)
            mask = self.run(np.repeat(self.blob(noise_HW3), self.batch or 1, 0))
        except UserError:
            raise
        except Exception as error:  # each runtime has errors of its own
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{self.runtime} cannot run {path}: {reason}") from error
        if self.labels:
            if mask.shape != (self.batch or 1, len(self.labels["names"]), *self.size):
                raise UserError(f"{path} has no logits of its {len(self.labels['names'])} classes; export it again.")
            return
        sides = [side for side in mask.shape if side != 1]
        if sides != [side for side in (self.batch or 1, *self.size) if side != 1]:  # in this order, or it lies askew
            images = f"{self.batch} images" if self.batch and self.batch > 1 else "an image"
            raise UserError(
                f"{path} makes no mask: its output {self.output} is of shape {mask.shape} for {images} of "
                f"{self.size[1]}x{self.size[0]}. Export it with export.py."
            )
        self._check_range(str(path), mask)

    def fingerprint(self) -> str:
        return f"{self.runtime} {self.digest} {self.size} {self.preprocess}"

    def probability(self, image_HW3: np.ndarray) -> np.ndarray:
        return self.infer_group([image_HW3])[0]

    def logits(self, image_HW3: np.ndarray) -> np.ndarray:
        return self.infer_group([image_HW3])[0]

    def infer_group(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Masks (B, H, W), or logits (B, classes, H, W), of B images, 0..255, of `self.size`."""
        fill = [self.blob(images[-1])] * ((self.batch or 1) - len(images))
        blob_B3HW = np.concatenate([*map(self.blob, images), *fill])
        answers = np.asarray(self.run(blob_B3HW), dtype=np.float32)
        if not self.labels:
            answers = answers.reshape(len(blob_B3HW), *self.size)
            self._check_range("the net", answers)
        return answers[: len(images)]

    def _check_range(self, name: str, answers: np.ndarray) -> None:
        """Raise UserError for what is no probability; NaN is another's matter."""
        low, high = answers.min(), answers.max()
        if low < -0.01 or high > 1.01:
            raise UserError(
                f"{name} gives values of {low:.2g} to {high:.2g}, no probability: its output needs a sigmoid, or is of "
                "numbers of classes. Export it with export.py."
            )

    def blob(self, image_HW3: np.ndarray) -> np.ndarray:
        """The input (1, 3, H, W) float32 that the file takes for an RGB image, 0..255, of `self.size`."""
        blob = np.ascontiguousarray(image_HW3.transpose(2, 0, 1)[None], dtype=np.float32)
        if self.preprocess is not None:
            blob = self.preprocess(blob)
        return blob

    def check(self, graph: Graph) -> None:
        """Raise UserError for a file that the runtime is known to compute wrongly."""

    def no_device(self, hint: str, *known: str) -> UserError:
        """The sentence for a device that is not there."""
        devices = ", ".join(dict.fromkeys(("cpu", *known)))
        return UserError(f"{self.runtime} has no device {self.device} here ({hint}); it knows {devices}.")

    @staticmethod
    @abstractmethod
    def read(path: Path, size: Size | None, preprocess: Preprocess | None) -> Graph:
        """What the file says of itself, its bytes included; `size` and `preprocess` where it says neither.

        Raises:
            UserError: it is damaged or takes something else than images.
        """

    @abstractmethod
    def load(self, data: bytes, streams: int, threads: int | None) -> None:
        """Prepare the file's bytes to be run by `streams` threads at once, each of which takes `threads`."""

    @abstractmethod
    def run(self, blob_B3HW: np.ndarray) -> np.ndarray:
        """The net's answers for prepared inputs, as many as the file takes at once."""
