"""What a data set is: its name, where its images and masks lie, and for a published one where it is from."""

from dataclasses import dataclass

from u2slim.data.labels import Labels
from u2slim.data.own_labels import Stored


@dataclass(frozen=True)
class Archive:
    """One published file: its addresses are tried in turn.

    `size` (bytes) and `sha256` are what people who downloaded it report; the publishers give neither.
    """

    name: str
    holds: str
    urls: tuple[str, ...]
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class DataSet:
    """A set of images with masks or classes. Its name is what configs call it, its title what tables call it.

    A published set has `homes`, names of its folder, and `layouts`, the (images, masks) folders inside it, the
    published ones first. Image folders named after their set (`DUTS-TR-Image`) are also found right under the data
    root. `extensions` are those of the published images and masks. `by_hand` says what to do where no archive can be
    unpacked as it is.

    A set of one's own has `folders` instead: those of its images and masks, absolute or below the data root; or a CSV
    file of pairs and nothing, of which `split` chooses some. Its `subject` says what in a mask is the subject, or its
    `stored` what in a label file stands for which of its classes.

    Of a set that is `withheld` only the images are published: a test server keeps the masks. `upload` says how it gets
    what a net makes of them.

    Semantic sets have `labels`. With `endings`, of images and of masks in order of preference, the files that belong
    together are those with the same name before its ending. A published set's folders may then have folders inside.
    """

    name: str
    title: str = ""
    count: int | None = None
    homes: tuple[str, ...] = ()
    layouts: tuple[tuple[str, str], ...] = ()
    extensions: tuple[str, str] = (".jpg", ".png")
    home_page: str = ""
    archives: tuple[Archive, ...] = ()
    by_hand: str = ""
    citation: str = ""
    labels: Labels | None = None
    endings: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    folders: tuple[str, str] | None = None
    subject: tuple[str | int, ...] = ()
    split: str = ""
    stored: Stored | None = None
    withheld: bool = False
    upload: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", self.title or self.name)

    def __hash__(self) -> int:
        return hash(self.name)  # each of many thousand pairs asks for it
