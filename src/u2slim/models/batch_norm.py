"""What BatchNorm cannot do, in a sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

from u2slim.errors import UserError


@contextmanager
def one_value_named(remedy: str) -> Iterator[None]:
    """Turn the error of a BatchNorm that gets one value a channel, which has no variance, into a sentence."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError(
            "One image at this size leaves one pixel before a BatchNorm, which takes averages over at least two: "
            f"{remedy}."
        ) from error
