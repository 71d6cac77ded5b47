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
            "One image of this size is a single pixel before a BatchNorm, which needs at least two to average: "
            f"{remedy}."
        ) from error
