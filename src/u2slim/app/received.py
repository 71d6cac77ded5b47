"""What a request to cut out says: its photo and its options, within limits."""

import argparse
import asyncio
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import NoReturn

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.types import Receive, Scope

from u2slim.app.options import add_picture_options, check
from u2slim.errors import UserError

FIELD = "file"  # of a form, that holds the photo
FRAME = 65_536  # bytes that a form may have beside its photo
IN_MEMORY = 1_000_000  # bytes of a photo that is on its way; what is larger is in a temporary file
SWITCHES = {"": True, "1": True, "true": True, "yes": True, "on": True} | dict.fromkeys(
    ("0", "false", "no", "off"), False
)


@dataclass(frozen=True)
class Limits:
    """How much a server takes.

    Args:
        concurrency: photos at work at once, and as many again that wait.
        max_bytes, max_pixels: of a photo.
        seconds: in which a request must have come in.
        memory: bytes that a photo may take while it is at work; None: any.
    """

    concurrency: int
    max_bytes: int
    max_pixels: int
    seconds: float
    memory: int | None = None


class Refusal(Exception):
    """An answer that is no picture: an HTTP status, a sentence, and the seconds after which to ask again."""

    def __init__(self, status: int, sentence: str, after: int | None = None):
        super().__init__(status, sentence, after)  # all, as it comes from another process
        self.status, self.sentence, self.after = status, sentence, after

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True)
class Asked:
    """A request that has come in whole: the photo's file, to be closed by who reads it, and the options for it."""

    photo: UploadFile
    options: argparse.Namespace


async def receive(request: Request, limits: Limits) -> Asked:
    """Read a request to its end: a form with the photo in the field `file`, or the photo alone as the body.

    Raises:
        Refusal: it is too large, too slow, has no photo, or has an option that cannot be.
    """
    given = _unique(request.query_params.multi_items())
    parsed(given)  # before a photo comes in for nothing
    # What curl --data-binary sends says that it is a form, and is not.
    is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    most = limits.max_bytes + FRAME * is_form
    told = request.headers.get("content-length", "0")
    if told.isdecimal() and int(told) > most:
        raise too_many_bytes(limits)
    body = _Body(request.scope, request.receive, most, limits)
    try:
        async with asyncio.timeout(limits.seconds):
            if is_form:
                photo, fields = await _form(body)
                given = _unique([*given.items(), *fields])
            else:
                photo = await _raw(body)
    except TimeoutError as error:
        raise Refusal(
            408, f"The request did not arrive within {limits.seconds:g} seconds; send less, or send it faster."
        ) from error
    if (photo.size or 0) > limits.max_bytes:
        raise too_many_bytes(limits)
    if not photo.size:
        raise Refusal(400, f"There is no photo: send it as the body, or in a form's field {FIELD}.")
    return Asked(photo, parsed(given))


def parsed(given: dict[str, str]) -> argparse.Namespace:
    """The options of `u2slim cut`, read by its own parser.

    Raises:
        Refusal: one is not known, has a value that it cannot have, or does not go with another.
    """
    if unknown := sorted(given.keys() - known().keys()):
        raise Refusal(400, f"{unknown[0]} is not a parameter; the parameters are {', '.join(sorted(known()))}.")
    words = []
    for name, value in given.items():
        if known()[name].nargs == 0:  # a switch, which a command line has or has not
            if value.lower() not in SWITCHES:
                raise Refusal(422, f"{name}={value}: give 1 or 0.")
            words += [f"--{name}"] * SWITCHES[value.lower()]
        else:
            words.append(f"--{name}={value}" if value or name != "crop" else "--crop=0")
    if given.get("mask") == "also":
        raise Refusal(422, "mask=also: the answer can hold only one picture. Give mask=only, or leave it out.")
    try:
        options = _PARSER.parse_args(words)
        check(options)
    except UserError as error:
        raise Refusal(422, for_guests(error)) from error
    return options


def known() -> dict[str, argparse.Action]:
    """The parameters by name."""
    return {action.option_strings[0].removeprefix("--"): action for action in _PARSER._actions}


def for_guests(error: Exception) -> str:
    """A sentence for the command line, for people who give parameters."""
    return re.sub(r"(?<![\w-])--(?=[a-z])", "", str(error))


def too_many_bytes(limits: Limits) -> Refusal:
    return Refusal(
        413, f"The photo has more than {limits.max_bytes} bytes, the most that this server takes; send a smaller one."
    )


def too_many_pixels(limits: Limits, pixels: int) -> Refusal:
    return Refusal(
        413,
        f"The photo has {pixels / 1e6:.1f} megapixels, and this server takes at most {limits.max_pixels / 1e6:g}; "
        "send a smaller one.",
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument --')}.")


_PARSER = _Parser(add_help=False, allow_abbrev=False)
add_picture_options(_PARSER)


class _Body(Request):
    """A request whose body may have so many bytes and no more, whatever it says of itself."""

    def __init__(self, scope: Scope, receive: Receive, most: int, limits: Limits):
        super().__init__(scope, receive)
        self.left, self.limits = most, limits

    async def stream(self) -> AsyncGenerator[bytes, None]:
        async for part in super().stream():
            self.left -= len(part)
            if self.left < 0:
                raise too_many_bytes(self.limits)
            yield part


async def _form(body: _Body) -> tuple[UploadFile, list[tuple[str, str]]]:
    form = await body.form(max_files=1, max_fields=len(known()) + 1, max_part_size=FRAME)
    fields = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
    files = [(name, value) for name, value in form.multi_items() if isinstance(value, UploadFile)]
    if not files or files[0][0] != FIELD:
        raise Refusal(400, f"There is no photo: send it as a file in the form's field {FIELD}.")
    return files[0][1], fields


async def _raw(body: _Body) -> UploadFile:
    photo = UploadFile(SpooledTemporaryFile(IN_MEMORY), size=0)  # type: ignore[arg-type]  # noqa: SIM115
    async for part in body.stream():
        await photo.write(part)
    await photo.seek(0)
    return photo


def _unique(pairs: list[tuple[str, str]]) -> dict[str, str]:
    given: dict[str, str] = {}
    for name, value in pairs:
        if name in given:
            raise Refusal(400, f"{name} is given twice; give it once.")
        given[name] = value
    return given
