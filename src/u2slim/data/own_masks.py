"""Masks of one's own that are no gray images: transparency, palettes, colours, polygons.

Each is turned into a gray PNG, 255 for the subject, when it is read. So whoever reads masks need not know of it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageColor

from u2slim.data.own_labels import Stored
from u2slim.errors import UserError
from u2slim.images.metadata import has_alpha
from u2slim.images.read import read_ids, read_with

ALPHA, ANY = "alpha", "any"
DARK = 16  # of 255: what a lossy file may have made of black
SHAPES = ("polygon", "rectangle", "circle")  # of labelme

Subject = tuple[str | int, ...]  # what in a mask is the subject; empty: its gray level says it
Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class MadeMask:
    """A mask that is made of what is in a file."""

    path: Path

    @property
    def name(self) -> str:
        """The file's."""
        return self.path.name

    def __str__(self) -> str:
        return str(self.path)

    @property
    def how(self) -> str:
        """What of the file it is made of, the same for masks that are the same as long as the file is."""
        return blake2b(repr(self).encode(), digest_size=8).hexdigest()

    def read_bytes(self) -> bytes:
        """A gray PNG, 255 for the subject."""
        raise NotImplementedError


@dataclass(frozen=True)
class ChosenMask(MadeMask):
    """An image of which a part is the subject.

    Args:
        path: the file.
        subject: `alpha`, what is not transparent; `any`, all but black or the palette's first colour; or numbers of a
            gray image or palette; or colours (`red`, `#ff0000`).
    """

    subject: Subject

    def read_bytes(self) -> bytes:
        """The gray PNG.

        Raises:
            UserError: the file cannot be read, or has no transparency, numbers or colours.
        """
        return as_png(_chosen(self.path, self.subject))


@dataclass(frozen=True)
class DrawnMask(MadeMask):
    """Polygons of a photo.

    Args:
        path: the file that they are from.
        size: (height, width) of the photo.
        polygons: filled where an odd number of a group's lie over each other.
        values: what each group is filled with; empty: 255.
        ground: what lies outside.
    """

    size: tuple[int, int]
    polygons: tuple[tuple[Points, ...], ...]
    values: tuple[int, ...] = ()
    ground: int = 0

    def read_bytes(self) -> bytes:
        """The gray PNG."""
        mask = np.full(self.size, self.ground, np.uint8)
        values = self.values or (255,) * len(self.polygons)
        for group, value in zip(self.polygons, values, strict=True):
            # In sixteenths of a pixel, whose middles have whole numbers for OpenCV.
            corners = [np.rint((np.array(points) - 0.5) * 16).astype(np.int32) for points in group]
            cv2.fillPoly(mask, corners, value, cv2.LINE_8, 4)
        return as_png(mask)


@dataclass(frozen=True)
class LabelmeMask(MadeMask):
    """The polygons, rectangles and circles of a labelme file: all of them, or those with the given labels."""

    subject: Subject

    def read_bytes(self) -> bytes:
        """The gray PNG.

        Raises:
            UserError: the file is no such one.
        """
        size, shapes = read_labelme(self.path, self.subject)
        return DrawnMask(self.path, size, tuple((outline,) for _, outline in shapes)).read_bytes()


def read_labelme(path: Path, wanted: Subject = ()) -> tuple[tuple[int, int], list[tuple[str, Points]]]:
    """The (height, width) of the photo of a labelme file, and its polygons, rectangles and circles with their labels.

    With `wanted`, only those with these labels.

    Raises:
        UserError: the file is no such one.
    """
    told = read_json(path)
    try:
        size = int(told["imageHeight"]), int(told["imageWidth"])
        shapes = [shape for shape in told["shapes"] if not wanted or shape["label"] in wanted]
        drawn = [shape for shape in shapes if shape.get("shape_type", "polygon") in SHAPES]
        return size, [(shape["label"], _outline(shape)) for shape in drawn]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(f"{path} is no file of labelme's ({error!r}).") from error


def _outline(shape: Mapping[str, Any]) -> Points:
    points = [(float(x), float(y)) for x, y in shape["points"]]
    kind = shape.get("shape_type", "polygon")
    if kind == "polygon":
        return tuple(points)
    (left, top), (right, bottom) = points
    if kind == "rectangle":
        return (left, top), (right, top), (right, bottom), (left, bottom)
    radius, around = np.hypot(right - left, bottom - top), np.linspace(0, 2 * np.pi, 90, endpoint=False)
    return tuple(zip((left + radius * np.cos(around)).tolist(), (top + radius * np.sin(around)).tolist(), strict=True))


def read_coco(path: Path, subject: Subject, stored: Stored | None = None) -> dict[str, DrawnMask]:
    """The masks of a COCO file by the `file_name` of their images; of all categories, or of those with the given names.

    With `stored` a mask holds class numbers instead, as this says of the categories' names; the later polygon counts.

    Raises:
        UserError: it is no such file, has run-length masks, of which no polygons are known, or as BadLabels has
            categories that stand for no class.
    """
    told = read_json(path)
    try:
        names = {category["id"]: category["name"] for category in told.get("categories", [])}
        if missing := [label for label in subject if label not in names.values()]:
            raise UserError(f"{path} has no category {missing[0]!r}; it has {', '.join(sorted(names.values()))}.")
        groups: dict[int, list[tuple[Points, ...]]] = {image["id"]: [] for image in told["images"]}
        labels: dict[int, list[str]] = {image: [] for image in groups}
        for annotation in told["annotations"]:
            label = names[annotation["category_id"]] if subject or stored else ""
            if subject and label not in subject:
                continue
            parts = annotation["segmentation"]
            if not isinstance(parts, list):
                raise UserError(
                    f"{path}: annotation {annotation.get('id')} is a run-length mask; export polygons or images."
                )
            groups[annotation["image_id"]] += [(tuple(zip(part[::2], part[1::2], strict=True)),) for part in parts]
            labels[annotation["image_id"]] += [label] * len(parts)
        if stored:  # all at once, so that all unknown ones are named
            stored.of_labels([label for some in labels.values() for label in some], path)
        return {
            image["file_name"]: DrawnMask(
                path,
                (image["height"], image["width"]),
                tuple(groups[image["id"]]),
                tuple(stored.of_labels(labels[image["id"]], path)) if stored else (),
                stored.ground if stored else 0,
            )
            for image in told["images"]
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is no COCO file ({error!r}); it has images, annotations and categories.") from error


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        UserError: it is none.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}).") from error


def _chosen(path: Path, subject: Subject) -> np.ndarray:
    if all(isinstance(one, int) for one in subject):
        return _of(np.isin(read_ids(path), subject))

    def choose(image: Image.Image) -> np.ndarray:
        if subject == (ALPHA,):
            if not has_alpha(image):
                raise UserError(f"{path} has no transparency, in which subject=alpha looks for the subject.")
            return np.asarray(image.convert("RGBA").getchannel("A"))
        if image.mode == "P" and subject == (ANY,):
            return _of(np.asarray(image) != 0)
        colours = np.asarray(image.convert("RGB"))
        if subject == (ANY,):
            return _of(colours.max(2) > DARK)
        wanted = [ImageColor.getrgb(str(colour))[:3] for colour in subject]
        return _of(np.any([(colours == one).all(2) for one in wanted], axis=0))

    return read_with(path, choose)


def _of(chosen: np.ndarray) -> np.ndarray:
    return np.where(chosen, 255, 0).astype(np.uint8)


def checked_subject(given: Any, setting: str) -> Subject:
    """What `subject` says; of polygons it names labels, which their files have to know.

    Raises:
        UserError: it is of no kind.
    """
    listed = [] if given is None else [given] if isinstance(given, str | int) else given
    if not isinstance(listed, Sequence) or any(isinstance(one, bool) for one in listed):
        listed = [None]
    if not all(isinstance(one, int) for one in listed) and not all(isinstance(one, str) and one for one in listed):
        raise UserError(
            f"{setting}={given}: give alpha, any, numbers as [1,2], colours as ['#ff0000'], or labels of polygons."
        )
    return tuple(listed)


def check_colours(subject: Subject, setting: str) -> None:
    """Raise UserError where words for image files are no colours."""
    for one in subject:
        if isinstance(one, str) and one not in (ALPHA, ANY):
            try:
                ImageColor.getrgb(one)
            except ValueError as error:
                raise UserError(
                    f"{setting}: {one} is no colour, and the masks are no polygons that could have it as a label; give "
                    "alpha, any, numbers, or colours as '#ff0000'."
                ) from error


def as_png(mask: np.ndarray) -> bytes:
    """A gray image (H, W) uint8 as a file."""
    file = BytesIO()
    Image.fromarray(mask).save(file, "PNG", compress_level=1)
    return file.getvalue()
