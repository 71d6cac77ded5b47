"""The published lite net through this code, on real photos: skipped where the data are absent."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.conftest import run
from u2slim.compress import init
from u2slim.export.parity import check_parity, reference_of
from u2slim.images.read import read_image
from u2slim.models import U2Net
from u2slim.runtime.onnx_writer import write_onnx
from u2slim.runtime.torch_runner import TorchRunner


@pytest.fixture(scope="module")
def lite(real):
    return init.pretrained(U2Net("lite"), real / "weights" / "u2netp.pth").eval()


def test_official_images_give_the_authors_masks(real, lite):
    runner = TorchRunner(lite, (320, 320))
    photos = sorted((real / "official" / "images").iterdir())
    assert len(photos) == 6
    for photo in photos:
        theirs = np.asarray(Image.open(real / "official" / "u2netp" / f"{photo.stem}.png").convert("L")) / 255
        ours = np.rint(runner(read_image(photo)) * 255) / 255  # as a mask is written
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).mean() <= 0.006, photo.name


@pytest.mark.slow
@pytest.mark.parametrize("preprocess", ["embedded", "external"])
def test_exports_agree_with_torch_on_photos(real, lite, tmp_path, preprocess):
    path = tmp_path / "lite.onnx"
    write_onnx(lite, 320, path, preprocess)
    photos = [read_image(photo) for photo in sorted((real / "ecssd" / "images").iterdir())[:3]]
    # A photo without a white pixel is what shows a wrong maximum inside the graph.
    photos.append(photos[0] // 2)
    reference = reference_of(lite, photos, 320, repeats=1)
    rows = [reference.row, *check_parity(reference, path, tolerance=1e-4, repeats=1)]
    assert [row.runtime for row in rows][:3] == ["torch", "opencv", "onnxruntime"]
    assert min(row.iou for row in rows) > 0.999


@pytest.mark.slow
def test_ecssd_200_scores_are_the_published_ones(real, tmp_path):
    source = ("model=standard", "model.width=lite", "init=pretrained", f"init.weights={real}/weights/u2netp.pth")
    run("eval.py", *source, "data=ecssd", f"data.root={real}", "hydra.run.dir=out", cwd=tmp_path)
    report, _ = json.loads((tmp_path / "out" / "metrics.json").read_text())["results"]
    assert report["images"] == 200 and report["stretch"]
    for name, value in {"maxF": 0.944, "MAE": 0.032, "S": 0.931, "wF": 0.904}.items():
        assert report[name] == pytest.approx(value, abs=0.004), name
