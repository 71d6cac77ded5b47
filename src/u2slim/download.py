"""Downloads that continue where they broke off, with a progress bar."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from u2slim.errors import UserError

log = logging.getLogger(__name__)

_RETRIES = 2  # of a broken connection, each continuing where it broke
_TIMEOUT = (15, 60)  # seconds, to connect and between two pieces


def download(urls: Iterable[str], path: Path, check: Callable[[Path], object]) -> None:
    """Download a file from the first address that has it.

    What a broken download has received stays beside `path` as a `.part` file; the next call continues from there.

    Args:
        check: raises UserError for a file that is not the one; it is removed then, and the next address is tried.

    Raises:
        UserError: no address has the file; says why, in an unfinished sentence.
    """
    reasons = []
    for url in urls:
        try:
            _download_from(url, path)
            check(path)
            return
        except UserError as error:
            path.unlink()
            reasons.append(str(error).partition(": delete")[0])
        except Exception as error:  # gdown passes on the errors of several libraries
            reasons.append(_reason(error))
    raise UserError("; ".join(dict.fromkeys(reasons)))


def _download_from(url: str, path: Path) -> None:
    import gdown
    from gdown.exceptions import DownloadError

    options = {"url": url, "output": str(path), "resume": True, "timeout": _TIMEOUT, "use_cookies": False}
    try:
        gdown.download(**options, retries=_RETRIES)
    except DownloadError as error:
        # The rest is not to be had: the server knows no ranges, has another file by now, or all was already here.
        # upstream: not reported as far as known (seen with gdown 6.5); drop when resume=True starts again by itself
        if not any(reason in str(error) for reason in ("byte range", "multiple temporary files")):
            raise
        for partial in path.parent.glob(f"{path.name}????????.part"):
            partial.unlink()
        log.info("the download of %s cannot be continued; starting again", path.name)
        gdown.download(**options)


def _reason(error: Exception) -> str:
    from requests import ConnectionError, HTTPError, Timeout

    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(cause, Timeout):
        return "the server does not answer in time"
    if isinstance(cause, HTTPError):
        return f"the server answers {cause.response.status_code} {cause.response.reason}"
    if isinstance(cause, ConnectionError):
        return "no connection to the server"
    return " ".join(str(error).split())[:200].rstrip(".")
