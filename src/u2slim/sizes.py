"""Sizes as settings give them: a square's side, or [height, width]."""

from collections.abc import Sequence

from u2slim.errors import UserError

Size = int | Sequence[int]
DEFAULT_SIDE = 320  # pixels, U2-Net's


def sides(size: Size, setting: str = "data.size") -> tuple[int, int]:
    """(height, width) of a size, which errors call `setting`.

    Raises:
        UserError: it is neither a whole number from 1 nor two of them.
    """
    pair = tuple(size) if isinstance(size, Sequence) and not isinstance(size, str) else (size, size)
    if len(pair) != 2 or any(type(side) is not int or side < 1 for side in pair):
        raise UserError(f"{setting}={size}: give a side in pixels, or [height,width].")
    return pair
