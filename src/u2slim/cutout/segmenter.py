"""A net that is opened once and called many times, and the shortest way from a photo to its cut-out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from PIL import Image

from u2slim.cutout.single import Cutout, Style, cut
from u2slim.errors import UserError
from u2slim.files import user_path
from u2slim.images.metadata import read_metadata, rgb_profile
from u2slim.images.read import Loaded, load, photo_pixels, read_photo
from u2slim.images.refine import Foreground, ForegroundML, GuidedFilter, Refine
from u2slim.runtime.class_masks import ClassMasks
from u2slim.sizes import Size
from u2slim.zoo import DEFAULT, NetHandle, open_net

# A file, an image file's bytes, also `Loaded`, an image of Pillow's, or (H, W), (H, W, 3) or (H, W, 4) uint8 pixels.
Photo = str | Path | bytes | Loaded | Image.Image | np.ndarray


class Segmenter:
    """A net in a runtime, from photos to soft masks; any number of threads may call it at once.

    Examples:
        >>> import numpy, u2slim
        >>> net = u2slim.Segmenter("lite-half", runtime="opencv", threads=2)
        >>> mask = net(numpy.zeros((300, 400, 3), numpy.uint8))
        >>> mask.shape, mask.dtype
        ((300, 400), dtype('float32'))

    Args:
        net: a name or a file; see `open_net`.
        runtime: `auto` (OpenCV for ONNX files, torch for others), `opencv`, `onnxruntime`, `openvino` or `torch`.
        threads: that it may take for all calls together; None: one a core.
        size: side of the square, or [height, width], to run the net at; None: its own.
        device: `cpu`, or another by the runtime's own name for it.
        streams: how many threads will call it at once, among which `threads` are shared.
        stretch: stretch each mask to 0..1, as U2-Net's own test script does; it is all 0 where there is no subject.
        classes: names of those that the mask is of, by a net that tells classes apart; see `ClassMasks`.

    Raises:
        UserError: there is no such net or class, or the runtime is not installed or cannot run it.
    """

    def __init__(
        self,
        net: str | Path | NetHandle = DEFAULT,
        runtime: str = "auto",
        *,
        threads: int | None = None,
        size: Size | None = None,
        device: str | None = None,
        streams: int = 1,
        stretch: bool = True,
        classes: Sequence[str] | None = None,
    ):
        if streams < 1 or (threads is not None and threads < 1):
            raise UserError(f"streams={streams}, threads={threads}: give whole numbers from 1.")
        self.runner = open_net(net).runner(runtime, stretch, streams, threads, size, device)
        if classes is not None:
            self.runner = ClassMasks(self.runner, [classes] if isinstance(classes, str) else classes)
        if self.runner.labels:
            raise UserError(
                f"{net} tells classes apart: choose the mask's classes with classes=[...], from "
                f"{', '.join(self.runner.labels['names'])}. For all use open_net(...).runner().class_map."
            )

    @overload
    def __call__(self, photo: Photo, bgr: bool = False) -> np.ndarray: ...

    @overload
    def __call__(self, photo: list[Photo], bgr: bool = False) -> list[np.ndarray]: ...

    def __call__(self, photo: Photo | list[Photo], bgr: bool = False) -> np.ndarray | list[np.ndarray]:
        """The soft mask (H, W) float32 in 0..1 of a photo; of a list of photos the list of theirs.

        Args:
            photo: a file, its bytes, a picture of Pillow's, or pixels (H, W, 3) uint8, also gray or with transparency.
            bgr: whether the pixels of arrays are in OpenCV's order.

        Raises:
            UserError: a photo cannot be read, or the net gives NaN for it.
        """
        if isinstance(photo, Photo):
            return self.runner(pixels(photo, bgr)[0])
        shapes: list[tuple[int, int]] = []

        def read() -> Iterator[np.ndarray]:
            for one in photo:
                image = pixels(one, bgr)[0]
                shapes.append((image.shape[0], image.shape[1]))
                yield image

        small = self.runner.small_masks(read())  # as many at a time as the file takes
        return [self.runner.enlarged(mask, shape) for mask, shape in zip(small, shapes, strict=True)]


def cut_out(
    photo: Photo,
    net: str | Path | NetHandle | Segmenter = DEFAULT,
    runtime: str = "auto",
    *,
    bgr: bool = False,
    border: float = 0,
    refine: Literal["guided"] | Refine | None = None,
    largest: bool = False,
    threshold: float | None = None,
    foreground: Literal["ml"] | Foreground | None = None,
    classes: Sequence[str] | None = None,
) -> Cutout:
    """Cut the subject out of one photo.

    Examples:
        >>> import numpy, u2slim
        >>> result = u2slim.cut_out(numpy.zeros((300, 400, 3), numpy.uint8))
        >>> result.mask.shape, result.rgba.shape, result.on("white").shape
        ((300, 400), (300, 400, 4), (300, 400, 3))

    Args:
        photo: a file, its bytes, a picture of Pillow's, or pixels (H, W, 3) uint8, also gray or with transparency.
        net: a name or a file (see `open_net`); for many photos a `Segmenter`, which is opened once.
        runtime: of a net that is not opened yet; see `Segmenter`.
        bgr: whether an array's pixels are in OpenCV's order; the cut-out's are RGB all the same.
        border, refine, largest, threshold, foreground: see `Style`; `guided` is `GuidedFilter()`, `ml` is
            `ForegroundML()`.
        classes: which the mask is of, by a net that is not opened yet; see `Segmenter`.

    Raises:
        UserError: the photo cannot be read, or there is no such net, class or runtime.
    """
    if isinstance(net, Segmenter) and runtime != "auto":
        raise UserError(f"runtime={runtime}: the Segmenter has a runtime already; leave it out.")
    if isinstance(net, Segmenter) and classes is not None:
        raise UserError(f"classes={classes}: the Segmenter is open already; choose classes where it is made.")
    segmenter = net if isinstance(net, Segmenter) else Segmenter(net, runtime, classes=classes)
    style = Style(
        border,
        _chosen("refine", refine, {"guided": GuidedFilter}),
        largest,
        threshold,
        _chosen("foreground", foreground, {"ml": ForegroundML}),
    )
    photo = _loaded(photo)
    result = cut(segmenter.runner, *pixels(photo, bgr), style)
    return replace(result, icc=_profile(photo))


def _loaded(photo: Photo) -> Loaded | Image.Image | np.ndarray:
    """A file's bytes, and what is in memory already.

    Raises:
        UserError: there is no such file, or it is no photo of any form.
    """
    if isinstance(photo, str | Path):
        return load(user_path(photo))
    if isinstance(photo, bytes):
        return Loaded("the photo", photo)
    if not isinstance(photo, Loaded | Image.Image | np.ndarray):
        raise UserError(f"{type(photo).__name__} is not a photo: give a file, its bytes, a Pillow image or an array.")
    return photo


def _profile(photo: Loaded | Image.Image | np.ndarray) -> bytes | None:
    """The RGB profile of a photo that has one."""
    if isinstance(photo, np.ndarray):
        return None
    return rgb_profile(photo) if isinstance(photo, Image.Image) else read_metadata(photo.data, ["icc"]).icc


def _chosen(setting: str, value: Any, known: Mapping[str, Callable[[], Any]]) -> Any:
    if not isinstance(value, str):
        return value
    if value not in known:
        raise UserError(f"{setting}={value!r} is not known; choose {', '.join(map(repr, known))} or give a function.")
    return known[value]()


def pixels(photo: Photo, bgr: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
    """A photo as the net sees it, RGB (H, W, 3) uint8, and its own RGBA where it has transparency.

    Raises:
        UserError: it cannot be read, or is an array of another kind.
    """
    photo = _loaded(photo)
    if isinstance(photo, np.ndarray):
        channels = photo.shape[2] if photo.ndim == 3 else 0
        if photo.ndim not in (2, 3) or channels not in (0, 1, 3, 4) or photo.dtype != np.uint8 or not photo.size:
            raise UserError(f"An array must be (H, W, 3) uint8, not {photo.shape} {photo.dtype}.")
        if bgr and channels >= 3:
            photo = photo[..., [2, 1, 0, 3][:channels]]
        if channels == 3:
            return photo.copy(), None  # as the caller may use the array again
        photo = Image.fromarray(photo[..., 0] if channels == 1 else photo)
    return photo_pixels(photo) if isinstance(photo, Image.Image) else read_photo(photo)
