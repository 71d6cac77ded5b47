"""Classes of one's own, as a config declares them: their names, their colours, and what stands for each in files."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from PIL import ImageColor

from u2slim.data.labels import IGNORE, Colour, Labels, some
from u2slim.errors import BadLabels, UserError

KEYS = ("ids", "colours", "labels")
BACKGROUND = "background"  # the class of what lies outside all polygons
MAX_CLASSES = 254  # a class's number is a byte, of which two have other meanings
MAX_ID = 65535

Given = dict[str, list]  # of one class, by `KEYS`


@dataclass(frozen=True)
class Stored:
    """What in a label file stands for which class number, or for `IGNORE`.

    Args:
        ids: (number, class) of gray images and of palettes' indices.
        colours: ((R, G, B), class).
        labels: (label, class) of polygons.
        others: the class of all else; None: all else is an error.
        ground: the class of what lies outside all polygons.
    """

    ids: tuple[tuple[int, int], ...]
    colours: tuple[tuple[Colour, int], ...]
    labels: tuple[tuple[str, int], ...]
    others: int | None
    ground: int

    def of_labels(self, labels: Sequence[str], source: object) -> list[int]:
        """The class numbers of polygons.

        Raises:
            BadLabels: some labels stand for nothing.
        """
        known = dict(self.labels)
        if self.others is None and (strange := sorted({label for label in labels if label not in known})):
            raise unknown(source, "labels", strange)
        return [known.get(label, IGNORE if self.others is None else self.others) for label in labels]


def unknown(source: object, kind: str, strange: Sequence[object]) -> BadLabels:
    """The sentence for a label file that holds what no class is declared for."""
    return BadLabels(
        f"{source} holds the {kind} {some(strange)}, which stand for no class: declare them in labels, list them in "
        "ignore, or give others=ignore."
    )


def own_labels(declared: Any, ignore: Any, others: Any, setting: str) -> tuple[Labels, Stored]:
    """The classes that are declared, and what stands for them in files.

    Args:
        declared: a list of names, whose ids are their places in it; or a dictionary of names, each with `ids`,
            `colours` and `labels` of polygons, one or several. For short, a number or several are ids, and a text is a
            colour. Without ids in any class they are the places, too. A class's name is a label of its own.
        ignore: ids, colours and labels of pixels without a class; `IGNORE` is one unless a class has it.
        others: what all else is: `error`, `ignore`, or a class's name. None: `error`.
        setting: what errors call the place of these three, e.g. `data`.

    Raises:
        UserError: a class, id, colour or label is of no kind or stands for two classes.
    """
    classes = _classes(declared, f"{setting}.labels")
    names = tuple(classes)
    if any(given["ids"] for given in classes.values()):
        for name, given in classes.items():
            if not any(given.values()):
                raise UserError(f"{setting}.labels.{name} has no id, which other classes have: give it one.")
    else:
        for place, given in enumerate(classes.values()):
            given["ids"] = [place]
    claimed = {label for given in classes.values() for label in given["labels"]}
    for name, given in classes.items():
        given["labels"] += [] if name in claimed else [name]
    ignored = _ignored(ignore, f"{setting}.ignore")
    drawn = [given["colours"][0] if given["colours"] else None for given in classes.values()]
    unused = (colour for number in count(1) if (colour := _voc_colour(number)) not in drawn)
    palette = tuple(colour or next(unused) for colour in drawn)
    found = {key: _classes_of(key, classes, ignored, f"{setting}.labels") for key in KEYS}
    found["ids"].setdefault(IGNORE, IGNORE)
    ground = names.index(BACKGROUND) if BACKGROUND in names else IGNORE
    stored = Stored(
        *(tuple(sorted(found[key].items())) for key in KEYS), _others(others, names, f"{setting}.others"), ground
    )
    # Files are read as the classes' own numbers.
    return Labels(names, palette, {"": tuple(range(len(names)))}, {"": ()}), stored


def _classes(declared: Any, setting: str) -> dict[str, Given]:
    if isinstance(declared, Sequence) and not isinstance(declared, str):
        names, declared = list(declared), dict.fromkeys(map(str, declared))
    elif isinstance(declared, Mapping):
        names = list(declared)
    else:
        raise UserError(f"{setting}={declared}: give the classes' names, as [sky,road,car], or {{NAME: ID, ...}}.")
    for name in names:
        if not isinstance(name, str) or not name.strip() or "," in name or not name.isprintable():
            raise UserError(f"{setting}: {name!r} is no name for a class; give a text without commas, in quotes.")
        if names.count(name) > 1:
            raise UserError(f"{setting}: two classes are called {name}; give several ids to one class instead.")
    if not 2 <= len(names) <= MAX_CLASSES:
        raise UserError(f"{setting} has {len(names)} classes; give 2 to {MAX_CLASSES}, e.g. background beside one.")
    return {name: _given(keys, f"{setting}.{name}") for name, keys in declared.items()}


def _given(keys: Any, setting: str) -> Given:
    """What one class's declaration says, by `KEYS`."""
    if not isinstance(keys, Mapping):
        keys = {} if keys is None else {"colours" if isinstance(keys, str) else "ids": keys}
    read = {"ids": _id, "colours": _colour, "labels": _label}
    found: Given = {key: [] for key in KEYS}
    for word, values in keys.items():
        key = f"{word}".replace("color", "colour").removesuffix("s") + "s"  # one of them is `colour`
        if key not in KEYS:
            raise UserError(f"{setting}.{word} is not known; the keys of a class are {', '.join(KEYS)}.")
        if values is None or values == []:
            raise UserError(f"{setting}.{word} is empty; put a colour such as '#804080' in quotes.")
        is_one = not isinstance(values, Sequence) or isinstance(values, str)
        is_rgb = key == "colours" and not is_one and isinstance(values[0], int)
        listed = [values] if is_one or is_rgb else values
        found[key] += [read[key](value, f"{setting}.{word}") for value in listed]
    return found


def _id(value: Any, setting: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_ID:
        raise UserError(f"{setting}={value}: give whole numbers from 0 to {MAX_ID}.")
    return value


def _colour(value: Any, setting: str) -> Colour:
    try:
        if isinstance(value, str):
            return ImageColor.getrgb(value)[:3]
        red, green, blue = (int(channel) for channel in value if type(channel) is int and 0 <= channel <= 255)
        return red, green, blue
    except (ValueError, TypeError) as error:
        raise UserError(f"{setting}={value} is no colour; give it as '#804080', or as [128,64,128].") from error


def _label(value: Any, setting: str) -> str:
    if not isinstance(value, str) or not value:
        raise UserError(f"{setting}={value}: give labels of polygons, which are texts.")
    return value


def _ignored(given: Any, setting: str) -> Given:
    """Of a text that may be a colour and a label, both."""
    found: Given = {key: [] for key in KEYS}
    listed = [] if given is None else given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    for value in listed:
        if not isinstance(value, str):
            found["ids"].append(_id(value, setting))
            continue
        found["labels"].append(_label(value, setting))
        try:
            found["colours"].append(ImageColor.getrgb(value)[:3])
        except ValueError:
            if value.startswith("#"):
                raise UserError(f"{setting}: {value} is no colour; give it as '#804080'.") from None
    return found


def _others(given: Any, names: Sequence[str], setting: str) -> int | None:
    if given in (None, "error"):
        return None
    if given == "ignore":
        return IGNORE
    if given not in names:
        raise UserError(f"{setting}={given}: give error, ignore, or a class: {', '.join(names)}.")
    return names.index(given)


def _classes_of(key: str, classes: Mapping[str, Given], ignored: Given, setting: str) -> dict:
    """The class number of each id, colour or label."""
    every: Iterable[tuple[str, int, Given]] = (
        *((name, number, given) for number, (name, given) in enumerate(classes.items())),
        ("no class", IGNORE, ignored),
    )
    found: dict = {}
    owners: dict = {}
    for name, number, given in every:
        for value in given[key]:
            if owners.setdefault(value, name) != name:
                shown = hexadecimal(value) if key == "colours" else value
                raise UserError(f"{setting}: the {key[:-1]} {shown} stands for {owners[value]} and for {name}.")
            found[value] = number
    return found


def hexadecimal(colour: Sequence[int]) -> str:
    """A colour as `#804080`."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _voc_colour(number: int) -> Colour:
    """PASCAL VOC's colours: each bit of the number is one of a channel's, in turn, from the highest on."""
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (number >> bit & 1) << (7 - bit // 3)
    red, green, blue = channels
    return red, green, blue
