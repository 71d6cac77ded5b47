"""Chromium, and a static host on this machine that counts what it sends."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

# Chromium looks for updates and more by itself, which no test wants.
QUIET = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--no-first-run"]


def chromium() -> str:
    """The browser's path; the test is skipped where there is none."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium: install one as chromium, chromium-browser or google-chrome")


@contextmanager
def browser(*options: str) -> Iterator:
    """A headless Chromium, driven by Playwright."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=[*QUIET, *options])
        yield started
        started.close()


class Host(ThreadingHTTPServer):
    """Serves a folder as plainly as any host; `sent` has the bytes of each file that was asked for."""

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server_port}/"
        self.sent: dict[str, int] = {}

    @classmethod
    @contextmanager
    def serving(cls, folder: Path) -> Iterator["Host"]:
        """One that works until it is left, or `shutdown` is called."""
        with cls(folder) as host:
            threading.Thread(target=host.serve_forever, daemon=True).start()
            yield host
            host.shutdown()


class _Handler(SimpleHTTPRequestHandler):
    def copyfile(self, source, outputfile) -> None:
        data = source.read()
        name = self.path.strip("/") or "index.html"
        self.server.sent[name] = self.server.sent.get(name, 0) + len(data)
        outputfile.write(data)

    def log_message(self, *_) -> None:
        pass
