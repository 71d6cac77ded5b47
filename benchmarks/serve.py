"""`u2slim serve` under load: python -m benchmarks.serve --seconds 600 --clients 32

Starts a server of its own on a free port of this machine, and ends it. Clients send photos, and in between what nobody
should send: bombs, broken and empty files, bytes without end, bad parameters, slow and broken-off requests, and
answers that they do not read. Once the time is up, 200 bodies follow that are damaged at random. It prints the answers
by kind, how long /health took all the while, and the server's memory. The exit code is 1 where a status of 500 or more
came, where the server ended by itself, or where it did not end at SIGTERM.
"""

import argparse
import asyncio
import io
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from http.client import HTTPConnection
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from pathlib import Path

import httpx2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from u2slim.data.sample import render

SLOW = 5  # seconds that the server gives a request
MAX_BYTES = 8_000_000
MAX_MEGAPIXELS = 16
FUZZED = 200
PARTS = 4  # of the time, after each of which the memory is looked at
QUERIES = (
    "",
    "background=white&format=jpeg",
    "background=blur&crop=10%25",
    "mask=only",
    "format=tiff&refine=guided",
    "format=webp&mask=only",
)
Send = Callable[["Load"], Awaitable[int | str]]


class Load:
    """Clients of one server, and what came of their requests.

    Args:
        address: of the server.
        seed: by which requests are drawn.
    """

    def __init__(self, address: str, seed: int):
        self.address, self.random = address, random.Random(seed)
        self.port = int(address.rpartition(":")[2])
        self.client = httpx2.AsyncClient(base_url=address, timeout=120, limits=httpx2.Limits(max_connections=None))
        self.statuses: dict[str, Counter] = defaultdict(Counter)
        self.photos = [jpeg(render(seed, number)[0]) for number in range(8)]
        self.photos += [jpeg(noise(2000, 3000)), jpeg(noise(3000, 4000))]
        self.bomb = encoded(np.zeros((6000, 6000), np.uint8))

    async def post(self, content: object, query: str = "", **options: object) -> int | str:
        """The status of an answer, or what went wrong instead of it."""
        try:
            return (await self.client.post(f"/cut?{query}", content=content, **options)).status_code
        except httpx2.HTTPError as error:
            return type(error).__name__

    async def clients(self, count: int, seconds: float) -> None:
        """So many at once, each with one request after the other."""
        end = time.monotonic() + seconds
        kinds, weights = zip(*((kind, weight) for kind, (weight, _) in KINDS.items()), strict=True)

        async def client() -> None:
            while time.monotonic() < end:
                kind = self.random.choices(kinds, weights)[0]
                status = await KINDS[kind][1](self)
                self.statuses[kind][status] += 1
                if status == 429:
                    await asyncio.sleep(self.random.uniform(0.2, 1))  # less than a polite client

        await asyncio.gather(*(client() for _ in range(count)))

    async def fuzz(self) -> None:
        """Bodies that are damaged at random, four at a time."""
        bodies = iter([self.damaged(number) for number in range(FUZZED)])

        async def client() -> None:
            for headers, body in bodies:
                while (status := await self.post(body, headers=headers)) == 429:
                    await asyncio.sleep(0.2)
                self.statuses["fuzzed body"][status] += 1

        await asyncio.gather(*(client() for _ in range(4)))

    @staticmethod
    def damaged(number: int) -> tuple[dict[str, str], bytes]:
        """A small photo of some format, alone or in a form, with bytes changed, cut off or doubled."""
        kind = ("jpeg", "png", "webp", "tiff", "gif", "bmp", "avif")[number % 7]
        chance = random.Random(number)
        data = bytearray(encoded(render(9, number % 5)[0][:120, :160], kind))
        headers = {}
        if number % 3 == 0:
            frame = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
            data = bytearray(frame + data + b"\r\n--x--\r\n")
            headers["Content-Type"] = "multipart/form-data; boundary=x"
        first = 200 if number % 2 else len(data)  # half of them in the head
        for _ in range(chance.randint(1, 20)):
            data[chance.randrange(min(first, len(data)))] = chance.randrange(256)
        if number % 5 == 0:
            del data[chance.randrange(len(data)) :]
        if number % 7 == 0:
            data = data + data
        return headers, bytes(data)

    async def raw(self, start: bytes, pieces: list[bytes], pause: float, reads: bool = True) -> int | str:
        """The status that a connection by hand gets."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**16)
        try:
            writer.write(start)
            for piece in pieces:
                await asyncio.sleep(pause)
                writer.write(piece)
                await writer.drain()
            if not reads:
                return "closed by us"
            head = await asyncio.wait_for(reader.read(16), 60)
            return int(head[9:12]) if head else "closed"
        except (ConnectionError, TimeoutError) as error:
            return type(error).__name__
        finally:
            writer.close()


def noise(height: int, width: int) -> np.ndarray:
    small = np.random.default_rng(height).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height)))


def encoded(pixels: np.ndarray, kind: str = "png") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def jpeg(pixels: np.ndarray) -> bytes:
    return encoded(pixels, "jpeg")


def head(length: int) -> bytes:
    return f"POST /cut HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()


async def good(load: Load) -> int | str:
    photo, query = load.random.choice(load.photos), load.random.choice(QUERIES)
    if load.random.random() < 0.5:
        return await load.post(photo, query)
    return await load.post(None, query, files={"file": ("photo.jpg", photo)})


async def broken(load: Load) -> int | str:
    photo = load.random.choice(load.photos)
    return await load.post(
        load.random.choice([b"", b"hello", photo[: len(photo) // 2], bytes(5000), b"\x89PNG\r\n\x1a\n"])
    )


async def bomb(load: Load) -> int | str:
    return await load.post(load.bomb)


async def huge(load: Load) -> int | str:
    return await load.post(bytes(MAX_BYTES + 1))


async def endless(load: Load) -> int | str:
    async def parts():
        for _ in range(200):
            yield bytes(65_536)

    return await load.post(parts())


async def parameters(load: Load) -> int | str:
    return await load.post(
        load.photos[0], load.random.choice(["x=1", "crop=wide", "background=/etc/passwd", "mask=also"])
    )


async def slow(load: Load) -> int | str:
    return await load.raw(head(1000), [b"x"] * (SLOW + 1), 1.1)


async def slow_head(load: Load) -> int | str:
    return await load.raw(b"POST /cut HTTP/1.1\r\n", [b"X-A: 1\r\n"] * (SLOW + 1), 1.1)


async def broken_off(load: Load) -> int | str:
    photo = load.photos[0]
    return await load.raw(head(len(photo)), [photo[: len(photo) // 2]], 0.1, reads=False)


async def unheard(load: Load) -> int | str:
    photo = load.photos[-1]
    return await load.raw(head(len(photo)), [photo, *[b""] * 5], 0.5, reads=False)


# How often, and what.
KINDS: dict[str, tuple[int, Send]] = {
    "photo": (50, good),
    "no photo, or broken": (15, broken),
    "bomb, 36 megapixels": (8, bomb),
    "too many bytes": (5, huge),
    "bytes without end": (3, endless),
    "bad parameters": (10, parameters),
    "slow body": (3, slow),
    "slow head": (2, slow_head),
    "broken off": (2, broken_off),
    "answer not read": (2, unheard),
}


def watch(port: int, pipe: Connection) -> None:
    """Ask for the server's health, on a new connection five times a second, until told to stop; in a process alone.

    In the process of the clients it would wait for these. How much later than asked for it wakes up tells what share of
    the times is the machine's.
    """
    times, late, statuses = [], [], Counter()
    before = time.perf_counter()
    while not pipe.poll(0.2):
        start = time.perf_counter()
        late.append(start - before - 0.2)
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/health")
        statuses[connection.getresponse().status] += 1
        times.append(time.perf_counter() - start)
        connection.close()
        before = time.perf_counter()
    pipe.send((times, late, statuses))


def spread(seconds: list[float]) -> str:
    milliseconds = np.array(seconds) * 1000
    middle, most = np.quantile(milliseconds, [0.5, 0.99])
    return f"median {middle:.1f}, 99 % {most:.1f}, max {milliseconds.max():.1f}"


def memory(server: int) -> float:
    """MiB that the server and its processes hold; what they share is counted once for each."""
    found = [Path(f"/proc/{server}")]
    found += [stat.parent for stat in Path("/proc").glob("[0-9]*/stat") if parent(stat) == server]
    held = [re.search(r"VmRSS:\s+(\d+)", (folder / "status").read_text()) for folder in found]
    return sum(int(match[1]) for match in held if match) / 1024


def parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has ended
        return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--net", default="lite-s")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    command = [sys.executable, "-m", "u2slim.app.main", "serve", "--port", "0", "--timeout", str(SLOW)]
    command += ["--max-bytes", str(MAX_BYTES), "--max-megapixels", str(MAX_MEGAPIXELS)]
    command += ["--net", options.net, "--runtime", options.runtime]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        address = re.search(r"http://\S+(?=/;)", line)[0]
        load = Load(address, options.seed)
        return asyncio.run(measured(load, server, options))
    finally:
        server.kill()
        server.wait()


async def measured(load: Load, server: subprocess.Popen, options: argparse.Namespace) -> int:
    own, others = Pipe()
    watching = Process(target=watch, args=(load.port, others), daemon=True)
    watching.start()
    held = []
    for _ in range(PARTS):
        await asyncio.wait_for(load.clients(options.clients, options.seconds / PARTS), options.seconds + 300)
        held.append(memory(server.pid))
    await asyncio.wait_for(load.fuzz(), 300)
    held.append(memory(server.pid))
    own.send("stop")
    times, late, load.statuses["health"] = own.recv()
    ended_early = server.poll() is not None
    server.send_signal(signal.SIGTERM)
    start = time.monotonic()
    while (status := server.poll()) is None and time.monotonic() < start + 60:
        await asyncio.sleep(0.05)
    await load.client.aclose()
    table = Table("request", "answers", box=None)
    for kind, counts in load.statuses.items():
        table.add_row(kind, ", ".join(f"{name}: {count}" for name, count in sorted(counts.items(), key=str)))
    Console(width=110).print(table)
    every = sum(load.statuses.values(), Counter())
    failures = sum(count for name, count in every.items() if isinstance(name, int) and name >= 500)
    print(
        f"{options.clients} clients for {options.seconds:g} s, net {options.net}, {os.cpu_count()} cores, "
        f"load average {os.getloadavg()[0]:.1f} at the end"
    )
    print(f"/health, ms: {spread(times)}")
    print(f"waking up late, ms, in the process that asked: {spread(late)}")
    print(f"memory, MiB: {held[0]:.0f} after a quarter, {', '.join(f'{mib:.0f}' for mib in held[1:])} to the end")
    print(f"answers of 500 and more: {failures}; ended at SIGTERM with {status} in {time.monotonic() - start:.1f} s")
    return int(bool(failures) or ended_early or status != 0)


if __name__ == "__main__":
    sys.exit(main())
