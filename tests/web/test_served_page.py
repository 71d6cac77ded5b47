"""The page of `u2slim serve` in a browser."""

import numpy as np
import pytest
from PIL import Image

import u2slim
from tests.app.test_serve import NET, serving
from tests.browser import browser
from tests.conftest import REPO
from u2slim.data.sample import render

pytestmark = pytest.mark.slow  # a browser and a server, which take their time to start


def test_it_shows_cut_outs_and_sentences(tmp_path):
    photo = tmp_path / "photo.png"
    Image.fromarray(render(3, 1)[0]).save(photo)
    with browser() as chromium, serving() as (_, address):
        from playwright.sync_api import expect

        page = chromium.new_page()
        page.goto(address)
        page.set_input_files("#files", [photo, REPO / "README.md"])
        expect(page.locator("#status")).to_have_text("1 of 2 cut out.", timeout=60_000)
        with page.expect_download() as download:
            page.locator("a.button:visible").click()
        download.value.save_as(tmp_path / "cut.png")
        assert "cannot be read" in page.locator(".told.bad").inner_text()
    expected = u2slim.cut_out(photo, NET, runtime="opencv").rgba
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "cut.png")), expected)
