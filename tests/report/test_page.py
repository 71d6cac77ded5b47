"""The report page: true to its numbers and pictures, safe with any name, whole without a network, sortable."""

import base64
import io
import json
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser import chromium
from u2slim.data.sample import render
from u2slim.evaluation.results import CURVES, SCORES, ModelFacts, Picture, Result
from u2slim.report.page import FALSE, LONG_SIDE, MISSED, error_map, write_page

HOSTILE = "<b>&\"x'.onnx"
ESCAPING = '</script><img src=x onerror="fail()">'
# Sorted as text, the numbers of parameters and of milliseconds would stand in another order.
MODELS = {
    "lite.pth": ModelFacts(1_131_181, 4.5, 12.8, 9.5, "PyTorch"),
    HOSTILE: ModelFacts(999_999, 88.2, 60.1, 120.0, "OpenCV dnn"),
    "masks": ModelFacts(),
}


class Element:
    def __init__(self, tag: str, attributes: dict[str, str | None], parents: list["Element"]):
        self.tag, self.attributes, self.parents, self.text = tag, attributes, parents, ""


class Page(HTMLParser):
    """All elements in document order; fails where a tag is not closed in its turn."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[Element] = []
        self.open: list[Element] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert len(attrs) == len(dict(attrs)), attrs
        self.elements.append(Element(tag, dict(attrs), [*self.open]))
        if tag not in ("meta", "img"):
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag

    def handle_data(self, data):
        for element in self.open:
            element.text += data

    def __call__(self, *tags: str, inside: Element | None = None) -> list[Element]:
        return [e for e in self.elements if e.tag in tags and (inside is None or inside in e.parents)]

    def rows(self) -> Iterator[list[Element]]:
        for body in self("tbody"):
            for row in self("tr", inside=body)[1:]:
                yield self("th", "td", inside=row)


def result(model: str, data: str, stretch: bool = True, **changes) -> Result:
    rng = np.random.default_rng([len(model), len(data), stretch])
    scores = dict(zip(SCORES, rng.uniform(0.5, 1, len(SCORES)).tolist(), strict=True))
    curves = {name: rng.random(256) for name in CURVES}
    return Result(model, data, stretch, **{"scores": scores, "curves": curves, "images": 40} | changes)


def picture(index: int, data: str, kind: str) -> Picture:
    photo, truth = render(5, index)
    masks = {model: np.roll(truth, 8 * shift, 1) for shift, model in enumerate(MODELS)}
    ious = {model: float(np.random.default_rng([index, shift]).random()) for shift, model in enumerate(MODELS)}
    if index == 1:
        del masks["masks"], ious["masks"]
    return Picture(data, f"{index} {ESCAPING}", kind, photo, truth, masks, ious)


def results() -> list[Result]:
    made = [result(model, data) for data in ("ECSSD", ESCAPING) for model in MODELS]
    made.append(result("lite.pth", "ECSSD", stretch=False))
    made[1].scores["relaxF"] = float("nan")
    made[2].scores["maxF"] = made[0].scores["maxF"] = 0.9994
    made[4] = result(HOSTILE, ESCAPING, images=38, left_out={"a.jpg": "the mask is <empty>", "b.jpg": "no mask"})
    return made


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    kinds = ["worst", "worst", "median", "median"]
    return [picture(index, "ECSSD", kind) for index, kind in enumerate(kinds)]


@pytest.fixture(scope="module")
def path(tmp_path_factory, pictures) -> Path:
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    write_page(path, f"Title {ESCAPING}", MODELS, results(), pictures, [f"Note {ESCAPING}"])
    return path


@pytest.fixture(scope="module")
def page(path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_charts_have_a_line_a_row_and_thresholds_rise_to_the_right(page, tmp_path):
    for section in page("section"):
        rows = [made for made in results() if made.data == page("h2", inside=section)[0].text]
        assert len(page("svg", inside=section)) == 3
        for chart in page("svg", inside=section):
            styles = [path.attributes["style"] for path in page("path", inside=chart) if "clip-path" in path.attributes]
            assert sum("stroke: #" in style for style in styles) == len(rows)
            assert sum("dasharray" in style for style in styles) == sum(not made.stretch for made in rows)
    falling = {name: np.linspace(1, 0.5, 256) for name in CURVES}  # the first is of threshold 255
    write_page(tmp_path / "report.html", "", {}, [result("net", "ECSSD", curves=falling)], [])
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    (line,) = [path for path in page("path", inside=page("svg")[1]) if "stroke: #" in path.attributes.get("style", "")]
    numbers = [float(word) for word in line.attributes["d"].split() if word not in "MLz"]
    assert numbers[0] > numbers[-2] and numbers[1] < numbers[-1]  # from the upper right to the lower left


LINKS = ("src", "href", "srcset", "action", "data", "poster")


def shown(score: float) -> str:
    return "–" if np.isnan(score) else f"{score:.3f}".removeprefix("0")


def test_table_shows_the_scores_given(page):
    expected = sorted(results(), key=lambda made: made.data != "ECSSD")
    for made, cells in zip(expected, page.rows(), strict=True):
        texts = [cell.text.strip() for cell in cells]
        left_out = f"/{made.images + len(made.left_out)}" if made.left_out else ""
        assert texts[:3] == [made.model, "yes" if made.stretch else "no", f"{made.images}{left_out}"]
        assert texts[3:17] == [shown(made.scores[name]) for name in SCORES]
        costs = {"lite.pth": "1.13 4.5 12.80 9.5", HOSTILE: "1.00 88.2 60.10 120.0", "masks": "– – – –"}
        assert texts[17:] == costs[made.model].split()


def test_best_of_each_data_set_is_bold_ties_included(page):
    rows = list(page.rows())
    for data in ("ECSSD", ESCAPING):
        made = [made for made in results() if made.data == data]
        cells, rows = rows[: len(made)], rows[len(made) :]
        for column, name in enumerate(SCORES, start=3):
            for stretch in (True, False):
                here = [one.stretch == stretch for one in made]
                scores = [one.scores[name] for one in made if one.stretch == stretch]
                bold = [bool(page("b", inside=row[column])) for row, mine in zip(cells, here, strict=True) if mine]
                if len(scores) > 1:
                    best = shown(np.nanmin(scores) if name == "MAE" else np.nanmax(scores))
                    assert bold == [shown(score) == best for score in scores], name
                else:
                    assert not any(bold), "a lone row is the best of nothing"


def test_names_are_escaped_wherever_they_stand(page, path):
    assert ESCAPING not in path.read_text(encoding="utf-8")
    assert len(page("script")) == 1 and all("onerror" not in image.attributes for image in page("img"))
    assert page("h1")[0].text == page("title")[0].text == f"Title {ESCAPING}"
    assert [heading.text for heading in page("h2")] == ["Scores", "ECSSD", ESCAPING]
    assert f"IoU of {HOSTILE}" in [option.text for option in page("option")]
    assert f"mask of {HOSTILE}" in [image.attributes["alt"] for image in page("img")]


def test_left_out_images_are_counted_and_named(page):
    assert [summary.text for summary in page("summary")] == [f"{HOSTILE}: 2 of 40 images left out"]
    (details,) = page("details")
    assert [item.text for item in page("li", inside=details)] == ["a.jpg: the mask is <empty>", "b.jpg: no mask"]


def test_page_refers_to_nothing_outside(page):
    links = [value for e in page.elements for name, value in e.attributes.items() if name.split(":")[-1] in LINKS]
    assert links and all(link.startswith(("#", "data:image/")) for link in links)
    assert not page("link", "iframe", "object") and "url(" not in page("style")[0].text
    ids = [element.attributes["id"] for element in page.elements if "id" in element.attributes]
    assert len(set(ids)) == len(ids)
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)


def decoded(image: Element) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image.attributes["src"].split(",")[1]))))


def test_pictures_are_the_ones_given_reduced(page, pictures):
    given = {made.name: made for made in pictures}
    assert len(page("article")) == len(pictures)
    for card in page("article"):
        made = given[card.attributes["data-name"]]
        images = {image.attributes["alt"]: decoded(image) for image in page("img", inside=card)}
        assert len(images) == 2 + 2 * len(made.masks)
        height, width = made.truth.shape
        for pixels in images.values():
            assert max(pixels.shape[:2]) == LONG_SIDE
            assert pixels.shape[1] / pixels.shape[0] == pytest.approx(width / height, rel=0.01)
        size = images["truth"].shape[::-1]
        masks = {"truth": made.truth, **{f"mask of {model}": mask for model, mask in made.masks.items()}}
        for name, mask in masks.items():
            expected = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.BOX), int)
            assert np.abs(images[name] - expected).mean() < 4
        assert all(f"IoU {shown(iou)}" in card.text for iou in made.ious.values())


def test_error_map_tells_missed_from_false_by_colour_and_how_much_by_intensity():
    truth = np.uint8([[255, 255, 0, 0, 255, 0]])
    mask = np.uint8([[255, 0, 255, 0, 128, 64]])
    photo = np.full((1, 6, 3), 100, np.uint8)
    right, missed, false, nothing, half_missed, little_false = error_map(photo, truth, mask)[0].astype(int)
    assert tuple(missed) == MISSED and tuple(false) == FALSE
    assert right.tolist() == nothing.tolist() and len(set(right)) == 1 and right[0] < 100
    for colour, share, pixel in ((MISSED, 127 / 255, half_missed), (FALSE, 64 / 255, little_false)):
        np.testing.assert_allclose(pixel, right + share * (np.array(colour) - right), atol=1)


def test_one_unmeasured_model_without_pictures_or_finite_values(tmp_path):
    nothing = result(
        "a$b$ \udcff",  # what Python makes of a file name that is not UTF-8
        "_own",
        scores=dict.fromkeys(SCORES, float("nan")),
        curves={name: np.full(256, np.nan) for name in CURVES},
    )
    write_page(tmp_path / "report.html", "", {}, [nothing], [])
    (cells,) = Page((tmp_path / "report.html").read_text(encoding="utf-8")).rows()
    assert [cell.text.strip() for cell in cells] == ["a$b$ ?", "yes", "40", *["–"] * 18]


def browse(page: Path, profile: Path) -> tuple[Page, list[str]]:
    """The document as Chromium leaves it, and what it printed on its console."""
    options = ["--no-sandbox", "--disable-gpu", "--window-size=1000,800", "--virtual-time-budget=5000"]
    logging = ["--enable-logging=stderr", "--v=0", f"--user-data-dir={profile}"]
    command = [chromium(), "--headless", *options, *logging, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return Page(done.stdout), [line for line in done.stderr.splitlines() if "CONSOLE" in line]


PROBE = """
const headers = [...document.querySelectorAll("#scores thead th")];
const text = cell => cell.textContent.trim();
const cards = () => [...document.querySelectorAll(".card")].filter(card => card.offsetParent);
function click(name) {
  const header = headers.find(header => header.textContent === name), button = header.querySelector("button");
  button.focus();
  button.click();
  const bodies = [...document.querySelectorAll("#scores tbody")];
  return {
    focused: document.activeElement === button,
    sorted: headers.map(header => header.getAttribute("aria-sort")).filter(Boolean),
    arrow: getComputedStyle(button, "::after").content,
    groups: bodies.map(body => body.rows[0].textContent),
    order: bodies.map(body => [...body.rows].slice(1).map(row => [...row.cells].slice(0, 2).map(text))),
  };
}
function choose(choice) {
  const form = document.querySelector("form");
  for (const [name, value] of Object.entries(choice)) form.elements[name].value = value;
  form.elements.key.dispatchEvent(new Event("change", { bubbles: true }));
  return cards().map(card => card.dataset.name);
}
const found = {
  start: cards().map(card => card.dataset.name),
  wider: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  clicks: COLUMNS.map(click),
  choices: CHOICES.map(choose),
};
document.body.appendChild(document.createElement("pre")).textContent = JSON.stringify(found);
"""
CLICKS = [
    ("maxF", "descending"),
    ("maxF", "ascending"),
    ("MAE", "ascending"),
    ("relaxF", "descending"),
    ("relaxF", "ascending"),
    ("params, M", "ascending"),
    ("params, M", "descending"),
    ("model", "ascending"),
    ("ms", "ascending"),
]
CHOICES = [
    {"key": "name", "order": "descending"},
    {"key": "iou1", "order": "ascending"},
    {"key": "iou2", "order": "descending"},
    {"key": "iou2", "order": "ascending", "kind": "worst"},
    {"key": "name", "order": "ascending", "kind": "median"},
]


@pytest.fixture(scope="module")
def probed(path, tmp_path_factory) -> dict:
    probe = PROBE.replace("COLUMNS", json.dumps([column for column, _ in CLICKS])).replace(
        "CHOICES", json.dumps(CHOICES)
    )
    copy = path.with_name("probed.html")
    copy.write_text(path.read_text(encoding="utf-8").replace("</body>", f"<script>{probe}</script></body>"))
    page, console = browse(copy, tmp_path_factory.mktemp("profile"))
    assert console == []
    return json.loads(page("pre")[0].text)


def test_headings_sort_rows_within_their_data_set(probed):
    keys = {
        "model": lambda made: made.model,
        "params, M": lambda made: MODELS[made.model].params,
        "ms": lambda made: MODELS[made.model].milliseconds,
    }
    orders = [[made for made in results() if made.data == data] for data in ("ECSSD", ESCAPING)]
    for (column, direction), click in zip(CLICKS, probed["clicks"], strict=True):
        key = keys.get(column, lambda made, name=column: made.scores[name])
        orders = [ordered(rows, key, direction == "descending") for rows in orders]
        assert click["order"] == [[[row.model, "yes" if row.stretch else "no"] for row in rows] for rows in orders]
        assert click["groups"] == ["ECSSD", ESCAPING]
        assert click["sorted"] == [direction] and click["focused"]
        assert click["arrow"] == ('"▲"' if direction == "ascending" else '"▼"')


def ordered(items: list, key, descending: bool) -> list:
    """Sorted with missing values last."""
    known = [item for item in items if key(item) is not None and key(item) == key(item)]
    return sorted(known, key=key, reverse=descending) + [item for item in items if item not in known]


def test_pictures_sort_by_name_and_by_any_model_and_are_filtered(probed, pictures):
    by_mean = ordered(pictures, lambda made: np.mean(list(made.ious.values())), descending=False)
    assert probed["start"] == [made.name for made in by_mean]
    models = dict(zip(("iou0", "iou1", "iou2"), MODELS, strict=True))
    for choice, names in zip(CHOICES, probed["choices"], strict=True):
        model = models.get(choice["key"])
        wanted = [made for made in pictures if choice.get("kind", made.kind) == made.kind]
        key = (lambda made, model=model: made.ious.get(model)) if model else (lambda made: made.name)
        assert names == [made.name for made in ordered(wanted, key, choice["order"] == "descending")]


def test_wide_tables_scroll_inside_the_page(probed):
    assert probed["wider"] == 0


def test_console_errors_would_be_noticed(tmp_path):
    faulty = tmp_path / "faulty.html"
    faulty.write_text("<!DOCTYPE html><html><head></head><body><script>absent();</script></body></html>")
    _, console = browse(faulty, tmp_path / "profile")
    assert len(console) == 1 and "absent is not defined" in console[0]
