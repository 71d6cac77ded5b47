"""What `u2slim serve` answers: cut-outs, its health, its numbers, and a page."""

import argparse
import asyncio
import hashlib
import math
import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Self

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from u2slim import __version__
from u2slim.app import work
from u2slim.app.nets import known_nets
from u2slim.app.received import Limits, Refusal, receive

PAGE = Path(__file__).with_name("page.html")
UPLOADS = 16  # requests that may come in at a time, for each photo that may be at work
PATHS = ("/", "/cut", "/health", "/nets", "/metrics")


class Service:
    """Has photos cut out by others, so that whoever asks for anything else need not wait.

    Args:
        net: its name.
        workers: makes what runs functions of `work` for `limits.concurrency` photos at once; anew, where it broke.
        limits: how much is taken.

    Raises:
        UserError: the net cannot be opened.
    """

    def __init__(self, net: str, workers: Callable[[], Executor], limits: Limits):
        self.net, self.workers, self.limits = net, workers, limits
        self.nets = known_nets()  # now, as it looks at files
        self.html = PAGE.read_text(encoding="utf-8")
        self.lock, self.taken, self.coming, self.usual = Lock(), 0, 0, 1.0
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("u2slim_requests", "Answers by path and status.", ["path", "status"], registry=registry)
        self.seconds = Histogram("u2slim_cut_seconds", "From a photo's bytes to its picture.", registry=registry)
        gauge = Gauge("u2slim_photos", "Photos at work and waiting.", ["state"], registry=registry)
        gauge.labels("working").set_function(lambda: self.working)
        gauge.labels("waiting").set_function(lambda: self.taken - self.working)
        self.folder = TemporaryDirectory(prefix="u2slim-")
        self.pool = workers()
        try:  # one for each, so that all are there before the first guest
            self.runtime = [self.pool.submit(work.runtime) for _ in range(limits.concurrency)][-1].result()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)
        self.folder.cleanup()

    @property
    def working(self) -> int:
        """Photos that are being cut out."""
        return min(self.taken, self.limits.concurrency)

    def app(self) -> Starlette:
        """The application, for any ASGI server."""
        routes = [
            Route("/", self.page),
            Route("/cut", self.cut, methods=["POST"]),
            Route("/health", self.health),
            Route("/nets", self.list_nets),
            Route("/metrics", self.metrics),
        ]
        handlers = {Refusal: _refused, HTTPException: _unknown, ClientDisconnect: _gone, Exception: _failed}
        return Starlette(
            routes=routes,
            middleware=[Middleware(_Outside, counter=self.requests)],
            exception_handlers=handlers,  # type: ignore[arg-type]  # which asks for handlers of any exception
        )

    async def page(self, request: Request) -> Response:
        """The page to try it on."""
        return Response(self.html, media_type="text/html", headers={"Content-Security-Policy": _policy(self.html)})

    async def health(self, request: Request) -> Response:
        """That it is there, and how much it has to do."""
        told = {"status": "ok", "version": __version__, "net": self.net, "runtime": self.runtime}
        return JSONResponse(told | {"working": self.working, "waiting": self.taken - self.working})

    async def list_nets(self, request: Request) -> Response:
        """The nets that go by a name, and which of them is served."""
        return JSONResponse({"serving": self.net, "nets": self.nets})

    async def metrics(self, request: Request) -> Response:
        """Numbers for Prometheus."""
        return Response(generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def cut(self, request: Request) -> Response:
        """A photo's cut-out, or its mask."""
        self._ensure_room()  # before a photo comes in for nothing
        with self._upload():
            asked = await receive(request, self.limits)
            data = await asyncio.to_thread(_emptied, asked.photo)
        self._ensure_room()
        future = self._begin(data, asked.options)
        del data
        try:
            result = await _unless_gone(future, request)
        except BrokenExecutor as error:
            raise Refusal(
                503, "The process that worked on this photo ended, perhaps because of another photo; ask again.", 1
            ) from error
        self.seconds.observe(result.seconds)
        self.usual += (result.seconds - self.usual) / 8
        kind = asked.options.format or "png"
        remove = BackgroundTask(result.file.unlink, missing_ok=True)
        return FileResponse(result.file, 200, _headers(result.facts), f"image/{kind}", remove)

    def _begin(self, data: bytes, options: argparse.Namespace) -> "Future[work.Result]":
        given = data, options, self.limits, Path(self.folder.name)
        try:
            future = self.pool.submit(work.make, *given)
        except BrokenExecutor:
            self.pool = self.workers()
            future = self.pool.submit(work.make, *given)
        with self.lock:
            self.taken += 1
        future.add_done_callback(self._leave)
        return future

    def _ensure_room(self) -> None:
        if self.taken >= 2 * self.limits.concurrency:
            raise self._busy()

    def _busy(self) -> Refusal:
        return Refusal(429, f"The server is busy; ask again in {self.pause} s.", self.pause)

    @property
    def pause(self) -> int:
        """Seconds after which there may be a place."""
        return max(1, math.ceil(self.usual * self.taken / self.limits.concurrency))

    @contextmanager
    def _upload(self) -> Iterator[None]:
        if self.coming >= UPLOADS * self.limits.concurrency:
            raise self._busy()
        self.coming += 1
        try:
            yield
        finally:
            self.coming -= 1

    def _leave(self, future: Future) -> None:
        with self.lock:
            self.taken -= 1


def _emptied(photo: UploadFile) -> bytes:
    """An upload's bytes, in a thread: closing its file removes it, for which a busy disk takes its time."""
    with photo.file as file:
        return file.read()


async def _unless_gone(future: "Future[work.Result]", request: Request) -> work.Result:
    """The result; who has hung up is not waited for, and loses the place in the queue."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    making, leaving = asyncio.wrap_future(future), asyncio.create_task(gone())
    try:
        both: set[asyncio.Future] = {making, leaving}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not making.done():
            future.add_done_callback(_remove)
            raise ClientDisconnect
        return making.result()
    finally:
        leaving.cancel()
        making.cancel()  # of the future, too, if it has not begun


def _remove(future: "Future[work.Result]") -> None:
    if not future.cancelled() and not future.exception():
        future.result().file.unlink(missing_ok=True)


def _headers(facts: dict[str, object]) -> dict[str, str]:
    """What `u2slim cut --json` prints, as headers."""
    told = {name: value for name, value in facts.items() if value is not None}
    if isinstance(box := told.get("box"), tuple):
        told["box"] = ",".join(map(str, box))
    return {f"U2slim-{name.capitalize()}": str(value) for name, value in told.items()}


def _policy(html: str) -> str:
    """What a browser may load and run for the page: what is in it, and this server's answers."""
    parts = {tag: re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", html, re.DOTALL) for tag in ("script", "style")}
    sources = {
        tag: " ".join(f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts)
        for tag, texts in parts.items()
    }
    return (
        f"default-src 'none'; script-src {sources['script']}; style-src {sources['style']}; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


async def _refused(request: Request, refusal: Refusal) -> Response:
    headers = None if refusal.after is None else {"Retry-After": str(refusal.after)}
    return JSONResponse({"error": str(refusal)}, refusal.status, headers)


async def _unknown(request: Request, error: HTTPException) -> Response:
    """Of what Starlette refuses by itself."""
    sentences = {
        404: f"There is nothing at this address; there are {', '.join(PATHS)}.",
        405: f"{request.method} is not for this address; photos are sent to /cut with POST.",
    }
    sentence = sentences.get(error.status_code, f"The form cannot be read: {error.detail}")
    return JSONResponse({"error": sentence}, error.status_code, error.headers)


async def _gone(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=499)  # which nobody is there to read, but the numbers have


async def _failed(request: Request, error: Exception) -> Response:
    """Of what a runtime or a library did not expect; the server's own output has the rest."""
    return JSONResponse({"error": f"The photo could not be cut out ({type(error).__name__})."}, 500)


class _Outside:
    """Counts the answers, and keeps browsers from guessing what is in them."""

    def __init__(self, app: ASGIApp, counter: Counter):
        self.app, self.counter = app, counter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 500  # of what ends in no answer

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-content-type-options", b"nosniff")]
            await send(message)

        try:
            await self.app(scope, receive, counted)
        finally:
            path = scope["path"] if scope["path"] in PATHS else "other"
            self.counter.labels(path, status).inc()
