"""The page of `make web` beside @imgly/background-removal, both in Chromium: python -m benchmarks.web [--photo PHOTO]

Both come from a host on this machine that compresses nothing. The table has the bytes of a first visit until the first
cut-out is there, and the seconds of that photo and of the next ones. They take turns; each visit has a browser that has
seen neither before. npm brings imgly's package and its nets, into FOLDER.
"""

import argparse
import functools
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from u2slim.data.sample import render
from u2slim.repository import REPOSITORY

IMGLY = "1.4.5"  # the newest whose nets npm has, too
PAGE = """\
import { removeBackground } from "@imgly/background-removal";
const told = document.querySelector("#told");
let count = 0;
document.querySelector("input").addEventListener("change", async event => {
  const [photo] = event.target.files;
  event.target.value = "";
  const data = new URL("data/", location.href).href;
  const model = new URLSearchParams(location.search).get("model");
  try {
    const picture = await removeBackground(photo, { publicPath: data, model });
    told.textContent = `${count += 1}: ${picture.size} bytes`;
  } catch (error) {
    told.textContent = `failed: ${error.message}`;
  }
});
"""
HTML = '<!doctype html><input type="file"><p id="told"></p><script type="module" src="page.js"></script>'


class Handler(SimpleHTTPRequestHandler):
    """Counts what is sent, and lets nets have threads."""

    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def copyfile(self, source, outputfile) -> None:
        data = source.read()
        self.server.sent += len(data)
        outputfile.write(data)

    def log_message(self, *_) -> None:
        pass


class Host(ThreadingHTTPServer):
    sent = 0


@contextmanager
def hosted(folder: Path) -> Iterator[Host]:
    with Host(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        yield host
        host.shutdown()


def imgly(folder: Path) -> Path:
    """A page around their package, with its nets."""
    site = folder / "site"
    if (site / "page.js").exists():
        return site
    print(f"installing @imgly/background-removal {IMGLY} into {folder}", file=sys.stderr)
    site.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text('{"private": true}')
    packages = [f"@imgly/background-removal@{IMGLY}", f"@imgly/background-removal-data@{IMGLY}", "esbuild"]
    subprocess.run(["npm", "install", "--ignore-scripts", "--silent", *packages], cwd=folder, check=True)
    (folder / "page.js").write_text(PAGE)
    bundle = ["npx", "esbuild", "page.js", "--bundle", "--minify", "--format=esm", "--outfile=site/page.js"]
    subprocess.run([*bundle, "--log-level=error"], cwd=folder, check=True)
    shutil.copytree(folder / "node_modules" / "@imgly" / "background-removal-data" / "dist", site / "data")
    (site / "index.html").write_text(HTML)
    return site


def visit(browser: Browser, host: Host, query: str, photo: Path, count: int) -> tuple[int, list[float]]:
    """The bytes of a first visit, and the seconds of each photo."""
    host.sent, seconds = 0, []
    with browser.new_context() as context, context.new_page() as page:
        page.set_default_timeout(120_000)
        page.goto(f"http://127.0.0.1:{host.server_port}/{query}")
        for number in range(count):
            start = time.perf_counter()
            (cut_by_theirs if query else cut_by_ours)(page, photo, number + 1)
            seconds.append(time.perf_counter() - start)
        return host.sent, seconds


def cut_by_ours(page: Page, photo: Path, number: int) -> None:
    page.set_input_files("#files", photo)
    page.locator("#status", has_text=f"{number} of {number} cut out.").wait_for()


def cut_by_theirs(page: Page, photo: Path, number: int) -> None:
    page.set_input_files("input", photo)
    page.locator("#told", has_text=f"{number}: ").or_(page.locator("#told", has_text="failed")).wait_for()
    if "failed" in (told := page.inner_text("#told")):
        raise SystemExit(told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photo", type=Path, help="a photo; default: a generated one of 1600x1200 pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=4, help="number of photos in a visit")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "build" / "peers" / "imgly")
    options = parser.parse_args()
    ours = REPOSITORY / "dist" / "web"
    if not (chromium := shutil.which("chromium") or shutil.which("google-chrome")):
        raise SystemExit("There is no Chromium: install it as chromium.")
    if not ours.exists():
        raise SystemExit("There is no page in dist/web: make web")
    theirs = imgly(options.folder.resolve())
    names = {"make web": (ours, "")}
    names |= {f"imgly, {model}": (theirs, f"?model={model}") for model in ("small", "medium")}
    found: dict[str, list] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        if (photo := options.photo) is None:
            photo = Path(folder, "photo.jpg")
            Image.fromarray(render(3, 1)[0]).resize((1600, 1200)).save(photo)
        for _ in range(options.rounds):
            for name, (site, query) in names.items():
                browser = playwright.chromium.launch(
                    executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"]
                )
                with hosted(site) as host:
                    found[name].append(visit(browser, host, query, photo, options.count))
                browser.close()
    print("| page | MB of a first visit | first photo, s | next ones, s | of ours |\n|---|---|---|---|---|")
    later = {name: median(second for _, seconds in visits for second in seconds[1:]) for name, visits in found.items()}
    for name, visits in found.items():
        first = median(seconds[0] for _, seconds in visits)
        ratio = later[name] / later["make web"]
        print(f"| {name} | {visits[0][0] / 1e6:.1f} | {first:.1f} | {later[name]:.2f} | {ratio:.1f} |", flush=True)


if __name__ == "__main__":
    main()
