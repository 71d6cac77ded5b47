"""Cut subjects out of photos: `cut_out` for one photo, `Segmenter` for many."""

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
    """Makes soft masks of photos with one net, which is opened once and called many times.

    Any number of threads may call it at once.

    Examples:
        >>> import numpy, u2slim
        >>> net = u2slim.Segmenter("lite-half", runtime="opencv", threads=2)
        >>> mask = net(numpy.zeros((300, 400, 3), numpy.uint8))
        >>> mask.shape, mask.dtype
        ((300, 400), dtype('float32'))

    Args:
        net: a name or a file; see `open_net`.
        runtime: `auto` (OpenCV for ONNX files, torch for others), `opencv`, `onnxruntime`, `openvino` or `torch`.
        threads: how many threads the runtime may use for all calls together; None: one per core.
        size: size of the net's input in pixels, the side of a square or [height, width]; None: the net's own.
        device: `cpu`, or another device by the runtime's own name for it; None: `cpu`, for torch a GPU if there is one.
        streams: how many of your threads will call it at once; they share `threads`.
        stretch: stretch each mask to 0..1, as U2-Net's own test script does; it is all 0 where there is no subject.
        classes: for a net that tells classes apart, the names of the classes that the mask shows; see `ClassMasks`.

    Raises:
        UserError: there is no such net or class, or the runtime is not installed or cannot run the net.
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
        """The soft mask of a photo, (H, W) float32 in 0..1; for a list of photos, a list of masks.

        Args:
            photo: a file's name, its bytes, a Pillow image, or pixels (H, W, 3) uint8; arrays may also be gray (H, W)
                or have transparency (H, W, 4).
            bgr: True: the channels of arrays are in OpenCV's order, blue first; False: red first.

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
        photo: a file's name, its bytes, a Pillow image, or pixels (H, W, 3) uint8; arrays may also be gray (H, W) or
            have transparency (H, W, 4).
        net: a name or a file (see `open_net`); for many photos a `Segmenter`, so that the net is opened only once.
        runtime: what runs a net that is given by name or file; see `Segmenter`.
        bgr: True: an array's channels are in OpenCV's order, blue first; the cut-out's are red first all the same.
        border: width of a border to add first, as a share of the photo's longer side, for close-ups only.
        refine: `guided` moves the mask's edges to the photo's; or a function of photo and mask.
        largest: keep only the mask's largest connected part.
        threshold: from 0 to 1: make the mask 0 or 255 there, without soft edges; None: leave soft edges.
        foreground: `ml` removes the background's colours from soft edges; or a function of photo and mask.
        classes: for a net by name or file that tells classes apart, the classes that the mask shows; see `Segmenter`.

    Returns:
        the cut-out: its mask, its pixels, the subject's box, and ways to save it or lay it over a background.

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
