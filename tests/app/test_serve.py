"""`u2slim serve`: the pictures of `u2slim cut`, and a sentence for whatever it refuses."""

import argparse
import asyncio
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx2
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.conftest import REPO, THREADS, children, wait_for
from u2slim.app import work
from u2slim.app.main import main, main_parser
from u2slim.app.received import Limits
from u2slim.app.service import PAGE, Service
from u2slim.data.sample import render
from u2slim.zoo import SHIPPED, open_net

NET = "lite-dwsep"
COMMAND = [sys.executable, "-m", "u2slim.app.main", "serve", "--net", NET, "--runtime", "opencv", "--port", "0"]


def encoded(pixels: np.ndarray, kind: str = "jpeg", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def photo() -> bytes:
    return encoded(render(3, 1)[0], quality=95)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """One whose work is done in threads of this process."""
    work.use(open_net(NET).runner("opencv", streams=2))
    with Service(NET, lambda: ThreadPoolExecutor(2), Limits(2, 300_000, 1_000_000, 5)) as made:
        yield made


@pytest.fixture
def client(service) -> Iterator[TestClient]:
    with TestClient(service.app()) as made:
        yield made


def sentence(answer) -> str:
    """Of a refusal, which is JSON and reads as one."""
    told = answer.json()
    assert set(told) == {"error"} and re.fullmatch(r"[\w./].*[.]", told["error"]), told
    return told["error"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", []),
        ("background=%2300ff80&format=jpeg&crop", ["--background", "#00ff80", "--crop", "--format", "jpeg"]),
        ("background=blur&crop=10%25", ["--background", "blur", "--crop", "10%"]),
        ("mask=only&threshold=0.5&largest=1", ["--mask", "only", "--threshold", "0.5", "--largest"]),
        ("no-stretch=1&border=20&srgb=0", ["--no-stretch", "--border", "20"]),
        (
            "refine=guided&format=webp&keep=none&srgb",
            ["--refine", "guided", "--format", "webp", "--keep", "none", "--srgb"],
        ),
    ],
)
def test_the_pictures_are_those_of_the_command_to_the_byte(client, service, photo, tmp_path, monkeypatch, query, words):
    monkeypatch.chdir(tmp_path)
    if words:  # opening the net takes longest, and once the command does it by itself
        net = work.OPENED.plain if "--no-stretch" in words else work.OPENED.stretched
        monkeypatch.setattr("u2slim.app.options.open_runner", lambda *_: net)
    kind = words[words.index("--format") + 1] if "--format" in words else "png"
    Path("photo.jpg").write_bytes(photo)
    assert main(["cut", "photo.jpg", "-o", f"cut.{kind}", "--net", NET, "--runtime", "opencv", *words]) == 0
    answer = client.post(f"/cut?{query}", content=photo)
    assert answer.status_code == 200, answer.text
    assert answer.content == Path(f"cut.{kind}").read_bytes()
    assert answer.headers["content-type"] == f"image/{kind}"
    fields = dict(part.partition("=")[::2] for part in query.replace("%25", "%").replace("%23", "#").split("&") if part)
    form = client.post("/cut", files={"file": ("../../etc/passwd", photo)}, data=fields)
    assert form.content == answer.content, form.text


def test_headers_tell_what_the_net_sees(client, photo):
    told = client.post("/cut", content=photo).headers
    box = [int(number) for number in told["u2slim-box"].split(",")]
    assert told["u2slim-subject"] == "found" and len(box) == 4 and box[0] < box[2] and box[1] < box[3]
    assert 0 < float(told["u2slim-share"]) < 1 and 0.5 < float(told["u2slim-confidence"]) <= 1
    wall = client.post("/cut", content=encoded(np.full((40, 60, 3), 200, np.uint8), "png")).headers
    assert wall["u2slim-subject"] == "none" and "u2slim-box" not in wall


@pytest.mark.parametrize(
    ("query", "status", "part"),
    [
        ("colour=red", 400, "colour is not a parameter; the parameters are background, border, class, colours, crop,"),
        ("net=u2net", 400, "net is not a parameter"),
        ("crop=1&crop=2", 400, "crop is given twice"),
        ("crop=wide", 422, "crop: wide: give a margin in pixels"),
        ("format=bmp", 422, "format: invalid choice: 'bmp'"),
        ("threshold=2", 422, "threshold: 2: give a number from 0 to 1"),
        ("srgb=perhaps", 422, "srgb=perhaps: give 1 or 0"),
        ("mask=also", 422, "mask=also: the answer can hold only one picture"),
        ("mask=only&background=white", 422, "background is for cut-outs, and mask only"),
        ("keep=dpi&format=webp", 422, "webp files cannot store dpi"),
        ("background=rgba(1,2,3,0.5)", 422, "is no background"),
        ("class=car", 422, "car: this net makes masks of the subject and knows no classes"),
    ],
)
def test_parameters_are_refused_in_a_sentence_and_none_is_ignored(client, photo, query, status, part):
    answer = client.post(f"/cut?{query}", content=photo)
    assert answer.status_code == status and part in sentence(answer)
    assert "--" not in sentence(answer)


def test_there_is_a_parameter_for_each_option_of_a_photo(client):
    commands: argparse._SubParsersAction = main_parser()._subparsers._group_actions[0]  # type: ignore[union-attr]
    words = {word for action in commands.choices["cut"]._actions for word in action.option_strings}
    words -= {word for action in commands.choices["serve"]._actions for word in action.option_strings}  # the net's
    options = {word.removeprefix("--") for word in words if word.startswith("--")}
    told = sentence(client.post("/cut?x=1"))
    assert set(told.partition("parameters are ")[2].rstrip(".").split(", ")) == options - {
        *("output", "redo", "json", "workers"),
        *("shard", "manifest", "ray"),
    }


@pytest.mark.parametrize("name", ["photo.png", "../photo.png", "/etc/passwd", "file:///etc/passwd"])
def test_files_of_the_server_are_out_of_reach(client, photo, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("photo.png").write_bytes(encoded(np.zeros((4, 4, 3), np.uint8), "png"))
    (tmp_path.parent / "photo.png").write_bytes(Path("photo.png").read_bytes())
    answer = client.post("/cut", params={"background": name}, content=photo)
    assert answer.status_code == 422 and sentence(answer).startswith(f"{name} is no background: give an opaque colour")
    for path in (f"/{name}", "/..%2f..%2fetc/passwd", "/page.html", "/static/../service.py"):
        assert client.get(path).status_code == 404


def test_what_is_no_photo_or_too_large_is_refused(client, photo):
    def status(**given) -> tuple[int, str]:
        answer = client.post("/cut", **given)
        return answer.status_code, sentence(answer)

    assert status(content=b"") == (400, "There is no photo: send it as the body, or in a form's field file.")
    assert status(files={"photo": photo})[0] == 400
    assert status(files=[("file", ("a", photo)), ("file", ("b", photo))])[0] == 400
    assert status(content=b"--", headers={"content-type": "multipart/form-data; boundary=x"})[0] == 400
    assert status(content=b"--", headers={"content-type": "multipart/form-data"})[0] == 400
    for bad in (
        b"hello",
        photo[:900],
        b"\x89PNG\r\n\x1a\n" + bytes(99),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ):
        assert status(content=bad)[0] == 415
    assert status(content=bytes(300_001)) == (
        413,
        "The photo has more than 300000 bytes, the most that this server takes; send a smaller one.",
    )
    assert status(content=iter([bytes(200_000)] * 9))[0] == 413  # which tells no length before
    assert status(files={"file": bytes(300_001)})[0] == 413
    bomb = encoded(np.zeros((1001, 1000), np.uint8), "png")
    assert len(bomb) < 10_000 and status(content=bomb)[0] == 413
    assert "1.0 megapixels, and this server takes at most 1" in status(content=bomb)[1]


def test_addresses_and_methods(client):
    told = client.get("/health").json()
    assert told["status"] == "ok" and told["net"] == NET and told["working"] == told["waiting"] == 0
    nets = client.get("/nets").json()
    assert nets["serving"] == NET and {*SHIPPED} < {net["name"] for net in nets["nets"]}
    assert client.get("/cut").status_code == 405 and "POST" in sentence(client.get("/cut"))
    assert client.get("/admin").status_code == 404 and "/cut" in sentence(client.get("/admin"))
    numbers = client.get("/metrics").text
    assert 'u2slim_requests_total{path="/cut",status="405"}' in numbers and "u2slim_cut_seconds_count" in numbers
    assert 'path="other"' in numbers and "/admin" not in numbers


def test_the_page_asks_this_server_alone(client):
    answer = client.get("/")
    assert answer.headers["content-type"].startswith("text/html") and answer.text == PAGE.read_text()
    assert not re.findall(r"https?:|[\"'(]//|@import|<link (?!rel=\"icon\" href=\"data:,\")|\bsrc=", answer.text)
    assert not re.findall(r"<[^>]* (style|on\w+)=", answer.text)  # which its own policy forbids
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and policy.count("'sha256-") == 3
    labelled = set(
        re.findall(r'id="(\w+)" type="file"|<label[^>]*>[^<]*\s*<(?:select|input)[^>]* id="(\w+)"', answer.text)
    )
    assert {"".join(names) for names in labelled} == {"files", "background", "colour", "format", "crop"}


@contextmanager
def serving(*words: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """A server in a process of its own, and its address."""
    env = os.environ | THREADS | {"PYTHONPATH": str(REPO / "src")}
    process = subprocess.Popen([*COMMAND, *words], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert "Ctrl-C ends it" in line, process.communicate()[1]
        yield process, re.search(r"http://\S+(?=/;)", line)[0]
    finally:
        process.kill()
        process.communicate()


def large() -> bytes:
    """A photo that takes seconds to cut out and to send as PNG."""
    return encoded(np.random.default_rng(0).integers(0, 256, (2400, 2400, 3), np.uint8), quality=50)


def test_a_server_under_load_answers_or_says_when_and_ends_its_work_at_sigterm(photo):
    with serving("--concurrency", "1", "--timeout", "2") as (process, address):
        assert address.startswith("http://127.0.0.1:")
        port = int(address.rpartition(":")[2])
        for other in own_addresses():
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((other, port), timeout=5)
        slow = socket.create_connection(("127.0.0.1", port))
        slow.sendall(b"POST /cut HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n" + photo[:99])
        silent = socket.create_connection(("127.0.0.1", port))
        silent.sendall(b"GET /health HTT")
        for late in (slow, silent):
            late.settimeout(20)
            answer = received(late)
            assert (
                answer.startswith(b"HTTP/1.1 408 ") and b'{"error":"The request did not arrive within 2 sec' in answer
            )
        picture = large()
        with ThreadPoolExecutor(6) as pool:
            asked = [pool.submit(httpx2.post, f"{address}/cut", content=picture, timeout=60) for _ in range(6)]
            wait_for(lambda: httpx2.get(f"{address}/health").json()["waiting"] == 1, 20)
            answers = [one.result() for one in asked]
        statuses = [answer.status_code for answer in answers]
        assert statuses.count(200) >= 2 and statuses.count(429) >= 2 and {*statuses} == {200, 429}
        refused = answers[statuses.index(429)]
        assert int(refused.headers["retry-after"]) >= 1 and "The server is busy" in sentence(refused)
        with ThreadPoolExecutor(1) as pool:  # what the system kills for memory does not end the server
            lost = pool.submit(httpx2.post, f"{address}/cut", content=picture, timeout=60)
            wait_for(lambda: httpx2.get(f"{address}/health").json()["working"] == 1, 20)
            for child in children(process.pid):
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    os.kill(child, signal.SIGKILL)
            answer = lost.result()
            assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
            assert "process that worked on this photo ended" in sentence(answer)
        assert httpx2.post(f"{address}/cut", content=photo, timeout=60).status_code == 200
        with ThreadPoolExecutor(1) as pool:
            last = pool.submit(httpx2.post, f"{address}/cut", content=picture, timeout=60)
            wait_for(lambda: httpx2.get(f"{address}/health").json()["working"] == 1, 20)
            process.send_signal(signal.SIGTERM)
            answer = last.result()
        assert answer.status_code == 200 and Image.open(io.BytesIO(answer.content)).size == (2400, 2400)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""


def received(connection: socket.socket) -> bytes:
    """What comes until the other end closes, or says that it will not close."""
    data = b""
    while not data.endswith(b"}") and (part := connection.recv(4096)):
        data += part
    return data


def own_addresses() -> list[str]:
    """Of this machine, beside the loopback."""
    found = {entry[4][0] for entry in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    return [address for address in found if not address.startswith("127.")]


def test_who_hangs_up_leaves_the_queue(service, photo):
    """A photo that nobody waits for any more is not cut out."""
    begun, go_on = threading.Event(), threading.Event()

    def busy() -> None:
        begun.set()
        go_on.wait(20)

    blocks = [service.pool.submit(busy) for _ in range(2)]
    assert begun.wait(20)
    before = service.registry.get_sample_value("u2slim_cut_seconds_count")
    messages = iter([{"type": "http.request", "body": photo}, {"type": "http.disconnect"}])
    sent: list[dict] = []

    async def receive():
        return next(messages)

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/cut",
        "query_string": b"",
        "headers": [],
        "http_version": "1.1",
    }
    asyncio.run(service.app()(scope, receive, send))
    assert sent[0]["status"] == 499 and service.taken == 0 and not [*Path(service.folder.name).iterdir()]
    go_on.set()
    assert [block.result() for block in blocks] == [None, None]
    assert service.registry.get_sample_value("u2slim_cut_seconds_count") == before


def test_a_fault_is_a_sentence_too(service, photo, monkeypatch):
    def fail(*_):
        raise RuntimeError("of a library")

    monkeypatch.setattr("u2slim.app.work.read_header", fail)
    with TestClient(service.app(), raise_server_exceptions=False) as client:
        answer = client.post("/cut", content=photo)
    assert answer.status_code == 500 and sentence(answer) == "The photo could not be cut out (RuntimeError)."
    assert service.taken == 0


def test_too_little_memory_is_refused_before_decoding(service, photo, monkeypatch):
    monkeypatch.setattr(service, "limits", replace(service.limits, memory=1000))
    with TestClient(service.app()) as client:
        answer = client.post("/cut", content=photo)
    assert answer.status_code == 413 and "too little memory" in sentence(answer)


def test_a_port_that_is_taken_and_a_missing_extra_are_told(capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 1
    assert f"--host 127.0.0.1 --port {port}: Address already in use; choose another" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve"]) == 1
    assert "u2slim serve needs uvicorn: pip install uvicorn, or" in capsys.readouterr().err


def test_only_the_command_itself_imports_the_server():
    loaded = "import sys, u2slim.app.main as m; m.main_parser(); print({'starlette', 'uvicorn'} & set(sys.modules))"
    env = os.environ | {"PYTHONPATH": str(REPO / "src")}
    done = subprocess.run([sys.executable, "-c", loaded], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
