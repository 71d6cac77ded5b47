"""The connections of `u2slim serve`: uvicorn, and bounds that it has none of."""

import asyncio
import os
import signal
import socket
from contextlib import suppress
from types import FrameType

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from u2slim.errors import UserError

MAX_CONNECTIONS = 512  # of which most may be idle
LINGER = 5  # seconds to read on after an early refusal, or clients that still send would not get to see it


def listen(host: str, port: int) -> socket.socket:
    """A socket at an address.

    Raises:
        UserError: there is no such address, or it is taken.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except OSError as error:
        reason = error.strerror if isinstance(error, socket.gaierror) or not error.errno else os.strerror(error.errno)
        raise UserError(
            f"--host {host} --port {port}: {reason}; choose another port, or an address of this machine."
        ) from error


def serve(app: ASGIApp, listener: socket.socket, seconds: float) -> None:
    """Answer until SIGTERM or Ctrl-C, and finish what is on the way then.

    Args:
        app: what answers.
        listener: what `listen` gave.
        seconds: in which a request's head must have come in, and an answer must get on.
    """

    class Connection(_Connection):
        patience = seconds

    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    # uvicorn sends itself the signal again when it is done, by which the process would end in an error.
    before = signal.signal(signal.SIGTERM, _nothing)
    try:
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)


def _nothing(number: int, frame: FrameType | None) -> None:
    pass


class _Connection(H11Protocol):
    # upstream: https://github.com/Kludex/uvicorn/issues/157 (closed); drop when uvicorn waits for no head for ever
    patience: float
    waiting: asyncio.TimerHandle | None = None
    is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse("429 Too Many Requests", "All connections are taken; ask again later.")
            transport.close()
            return
        own = transport.get_extra_info("socket")
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # or who never reads an answer would keep it in memory
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(self.patience * 1000))
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.is_refused:
            return
        super().data_received(data)
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            if self.waiting is None:  # on the head of a further request
                self._await_head()
        else:
            self._head_came()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self.waiting = self.loop.call_later(LINGER, self.transport.close)

    def _await_head(self) -> None:
        self.waiting = self.loop.call_later(self.patience, self._no_head)

    def _head_came(self) -> None:
        if self.waiting is not None:
            self.waiting.cancel()
            self.waiting = None

    def _no_head(self) -> None:
        self._refuse("408 Request Timeout", f"The request did not arrive within {self.patience:g} seconds.")

    def _refuse(self, status: str, sentence: str) -> None:
        body = f'{{"error":"{sentence}"}}'
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close"
        )
        self.transport.write(f"{head}\r\nRetry-After: 1\r\n\r\n{body}".encode())
        self.is_refused = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.waiting = self.loop.call_later(LINGER, self.transport.close)
