"""The report page of nets that tell classes apart: true to its numbers and pictures, and sortable."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser import browser
from tests.report.test_page import ESCAPING, HOSTILE, LINKS, Page, shown
from u2slim.data.labels import IGNORE, Labels
from u2slim.data.scenes import render_scene
from u2slim.evaluation.class_counts import ClassCounts, confusion_of
from u2slim.evaluation.classes import ClassResult
from u2slim.evaluation.results import ModelFacts, Picture
from u2slim.report.class_page import class_errors, write_class_page
from u2slim.report.page import FALSE

NAMES = ("sky", ESCAPING, "house", "tree", "ball", "ghost")
PALETTE = ((70, 130, 180), (128, 64, 128), (128, 0, 0), (107, 142, 35), (250, 170, 30), (1, 2, 3))
LABELS = Labels(NAMES, PALETTE, ids={"": tuple(range(6))}, nothing={"": ()})
MODELS = {"good.ckpt": ModelFacts(2_860_000, 11.4, 0.78, 104.0, "torch"), HOSTILE: ModelFacts(716_000, 2.9)}
ERRORS = {"good.ckpt": 0.1, HOSTILE: 0.5}


def predicted(truth: np.ndarray, share: float) -> np.ndarray:
    """The truth, of whose pixels a share is another class."""
    rng = np.random.default_rng(0)
    known = np.where(truth == IGNORE, 0, truth)
    return np.where(rng.random(truth.shape) < share, (known + 1) % 5, known).astype(np.uint8)


@pytest.fixture(scope="module")
def results() -> list[ClassResult]:
    truths = [render_scene(3, index)[1] for index in range(4)]
    made = []
    for model, share in ERRORS.items():
        confusion = np.sum([confusion_of(predicted(truth, share), truth, 6) for truth in truths], axis=0)
        images = {str(index): {"mIoU": 0.5, "accuracy": 0.5} for index in range(4)}
        left_out = {"5.png": "the file is <broken>"} if model == HOSTILE else {}
        made.append(ClassResult(model, "scenes", LABELS, ClassCounts(confusion), images, left_out))
    return made


@pytest.fixture(scope="module")
def path(tmp_path_factory, results) -> Path:
    pictures = []
    for index in range(3):
        photo, truth = render_scene(3, index)
        masks = {model: predicted(truth, share) for model, share in ERRORS.items()}
        ious = {"good.ckpt": 0.9 - 0.1 * index, HOSTILE: 0.3}
        pictures.append(Picture("scenes", f"{index} {ESCAPING}", "worst", photo, truth, masks, ious))
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_class_page(path, "Title", MODELS, results, pictures)
    return path


@pytest.fixture(scope="module")
def page(path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_tables_show_the_scores_given_and_mark_the_best(page, results):
    scores, classes = page("table")
    for result, row in zip(results, page("tr", inside=scores)[2:], strict=True):
        texts = [cell.text.strip() for cell in page("th", "td", inside=row)]
        given = "4/5" if result.left_out else "4"
        assert texts[:4] == [result.model, given, shown(result.numbers["mIoU"]), shown(result.numbers["accuracy"])]
        assert texts[4] == f"{MODELS[result.model].params / 1e6:.2f}"
    good = results[0].numbers["mIoU"]
    assert [bold.text for bold in page("b", inside=scores)] == [shown(good), shown(results[0].numbers["accuracy"])]
    rows = [[cell.text.strip() for cell in page("th", "td", inside=row)] for row in page("tr", inside=classes)[1:]]
    assert [row[0] for row in rows] == list(NAMES)
    pixels = results[0].counts.confusion_CC.sum(1)
    assert [row[1] for row in rows] == [f"{100 * share:.2f}" for share in pixels / pixels.sum()]
    for column, result in enumerate(results, start=2):
        assert [row[column] for row in rows] == [shown(iou) for iou in result.ious], "a dash where nothing is"
    assert "left out" in page("summary")[0].text and "<broken>" in page("details")[0].text
    assert "Category" not in page("body")[0].text, "this set has none"


def test_pictures_are_the_photo_the_truth_and_what_each_net_makes_of_it(page):
    def pixels(element) -> np.ndarray:
        data = element.attributes["src"].partition(",")[2]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)

    matrices = [image for image in page("img") if "confusion" in image.attributes["alt"]]
    assert len(matrices) == 2 and min(pixels(matrices[0]).shape[:2]) > 200
    card = page("article")[0]
    images = {image.attributes["alt"]: pixels(image) for image in page("img", inside=card)}
    photo, truth = render_scene(3, 2)  # the worst of all
    colours = np.array([*PALETTE, *(250 * [(0, 0, 0)])])
    # Encoded as JPEG: near, not equal.
    assert np.abs(images["photo"] - photo).mean() < 8
    known = truth != IGNORE
    laid = np.where(known[..., None], (photo + colours[truth] + 1) // 2, photo)
    assert np.abs(images["truth"] - laid).mean() < 8
    bad = predicted(truth, ERRORS[HOSTILE])
    assert np.abs(images[f"mask of {HOSTILE}"] - (photo + colours[bad] + 1) // 2).mean() < 16
    marked = class_errors(photo, truth, bad)
    np.testing.assert_array_equal((marked == FALSE).all(2), known & (bad != truth))
    assert "IoU .700" in card.text and "IoU .300" in card.text


def test_it_is_whole_without_a_network_and_sorts_classes(path, page):
    links = [link for element in page.elements for name, link in element.attributes.items() if name in LINKS]
    assert links and all(link.startswith(("data:image/", "#")) for link in links)
    assert ESCAPING not in path.read_text(encoding="utf-8")
    with browser() as started:
        opened, errors = started.new_page(), []
        opened.on("pageerror", lambda error: errors.append(str(error)))
        opened.goto(path.as_uri())
        classes = opened.locator("table").nth(1)
        header = classes.locator("thead th").nth(1)
        header.locator("button").click()
        shares = [float(text) for text in classes.locator("tbody td:nth-child(2)").all_inner_texts()]
        assert shares == sorted(shares, reverse=True) and header.get_attribute("aria-sort") == "descending"
        assert opened.locator("#scores .group").count() == 1
        loaded = "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
        assert opened.evaluate(loaded) and not errors
