"""A net that nobody has heard of goes the whole way: what is needed of one is what `Net` says, and nothing else."""

import functools

import cv2
import numpy as np
import onnx
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import u2slim.models
from tests.conftest import write_set
from u2slim.compress import init
from u2slim.cutout.single import cut
from u2slim.data.saliency_datamodule import SaliencyDataModule
from u2slim.data.sample import render
from u2slim.data.unlabelled import Photos
from u2slim.evaluation.entries import open_models
from u2slim.evaluation.score_sets import score_all, summarise
from u2slim.evaluation.store import Store
from u2slim.export.calibration import Gate
from u2slim.export.deploy import Deployment
from u2slim.images.preprocess import Preprocess
from u2slim.models import DepthwiseSeparableConv, Net, StandardConv, build_net
from u2slim.models.net import ConvFactory
from u2slim.models.rsu import ConvBNReLU
from u2slim.runtime import net_runner, onnx_runner
from u2slim.tasks import SaliencyTask
from u2slim.training.losses import DeepSupervision
from u2slim.zoo import open_net
from u2slim.zoo.checkpoints import with_size, write_net

SIDE = 64


class MadeUp(Net):
    """Two blocks, three outputs of other names, and another normalisation than U2-Net's."""

    outputs = ("answer", "coarse", "edges")
    preprocess = Preprocess(SIDE, (0.5, 0.4, 0.3), (1.0, 2.0, 0.5), own_maximum=False)

    def __init__(self, conv: ConvFactory = StandardConv, mid: int = 8):
        super().__init__()
        self.blocks = nn.ModuleList([ConvBNReLU(3, mid, 1, conv), ConvBNReLU(mid, mid, 2, conv)])
        self.last = nn.ModuleList(nn.Conv2d(mid, 1, 1) for _ in self.outputs)

    @property
    def name(self) -> str:
        return f"made-up-{self.blocks[0].conv.variant}"

    @property
    def heads(self) -> list[nn.Module]:
        return [*self.last]

    @property
    def stages(self) -> list[nn.Module]:
        return [*self.blocks]

    def forward(self, x_BCHW: Tensor, upsampled: bool = True) -> list[Tensor]:
        x = x_BCHW
        for block in self.blocks:
            x = block(x)
        answer, coarse, edges = (head(x) for head in self.last)
        coarse = F.avg_pool2d(coarse, 2)
        return [answer, F.interpolate(coarse, x.shape[2:]) if upsampled else coarse, edges]


def config(variant: str) -> dict:
    conv = {"_target_": f"u2slim.models.{variant}", "_partial_": True}
    return {"_target_": "u2slim.models.MadeUp", "conv": conv}


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """What a line in models/__init__.py does."""
    monkeypatch.setattr(u2slim.models, "MadeUp", MadeUp, raising=False)


@pytest.fixture
def dense(tmp_path):
    """A dense net that says something else of each photo, and its file."""
    torch.manual_seed(3)
    net = build_net(config("StandardConv"))
    with torch.no_grad():
        for block in net.blocks:
            block.bn.running_var.uniform_(0.5, 2)
            block.bn.running_mean.normal_(0, 0.3)
        net.last[0].weight *= 20
    write_net(net.eval(), SIDE, tmp_path / "dense.ckpt")
    return tmp_path / "dense.ckpt"


def test_it_is_filled_trained_scored_exported_and_cuts_out(tmp_path, dense):
    write_set(tmp_path / "data/DUTS-TR", "DUTS-TR-Image", "DUTS-TR-Mask", 8)
    write_set(tmp_path / "data/ECSSD", "images", "ground_truth_mask", 3)
    photos = Photos.below(tmp_path / "data/DUTS-TR/DUTS-TR-Image", SIDE)

    # Filled from the dense net by least squares, and trained for two steps with a term for each output.
    fill = functools.partial(init.pretrained, weights=dense, count=4, photos=photos, lstsq={"pixels": 500, "rounds": 1})
    task = SaliencyTask(config("DepthwiseSeparableConv"), SIDE, fill, DeepSupervision())
    assert isinstance(task.net.blocks[1].conv, DepthwiseSeparableConv) and task.answer == "answer"
    data = SaliencyDataModule(
        tmp_path / "data", ["duts_tr"], size=SIDE, batch_size=2, val_count=2, num_workers=0, test={"ecssd": None}
    )
    before = {name: weight.clone() for name, weight in task.net.named_parameters()}
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=2, log_every_n_steps=1, default_root_dir=tmp_path, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(task, data)
    trainer.validate(task, data, verbose=False)
    logged = set(trainer.callback_metrics)
    assert {"val/answer", "val/loss", "val/maxF"} <= logged
    assert all(not torch.equal(weight, before[name]) for name, weight in task.net.named_parameters() if "bias" in name)
    with pytest.raises(u2slim.UserError, match="loss.weights has 2 numbers; give 3: answer, coarse, edges"):
        SaliencyTask(config("StandardConv"), SIDE, loss=DeepSupervision([1, 1]))

    # Scored from its checkpoint.
    write_net(task.net, SIDE, tmp_path / "trained.ckpt")
    models, sets = open_models([str(tmp_path / "trained.ckpt")]), data.test_pairs()
    store = Store(tmp_path / "scores.sqlite")
    scored = score_all(models, sets, store, workers=1)
    [(name, _)] = scored
    result = summarise(name, scored[name, "ecssd"], store, stretch=True)
    assert result.images == 3 and 0 <= result.scores["maxF"] <= 1

    # Exported with all its outputs, in two kinds of input and three precisions, each proved on the way.
    net = open_net(tmp_path / "trained.ckpt").net()
    assert (net.name, net.preprocess.size, net.preprocess.mean) == ("made-up-dwsep", SIDE, (0.5, 0.4, 0.3))
    images = [render(0, index)[0] for index in range(2)]
    deployment = Deployment(net, SIDE, images, images, Gate([], images, 1.0), outputs="all")
    for preprocess in ("embedded", "external"):
        for precision in ("fp32", "fp16", "int8"):
            deployment.write(tmp_path / f"{preprocess}-{precision}.onnx", preprocess, precision)
    file = onnx.load(tmp_path / "external-fp32.onnx")
    said = {item.key: item.value for item in file.metadata_props}
    assert [output.name for output in file.graph.output] == ["mask", "coarse", "edges"]
    assert said["u2slim.net"] == "made-up-dwsep" and said["u2slim.outputs"] == "mask coarse edges"
    # What the C++ program reads of an external file's input.
    assert (said["u2slim.mean"], said["u2slim.std"], said["u2slim.divisor"]) == ("0.5 0.4 0.3", "1 2 0.5", "255")

    # Cut out by every file as by torch, which has the photo divided by 255 and not by its own maximum.
    photo = images[0] // 2
    expected = cut(net_runner(net, SIDE), photo).mask.astype(int)
    small = cv2.resize(photo.astype(np.float32), (SIDE, SIDE)) / 255
    by_hand = torch.from_numpy((small - (0.5, 0.4, 0.3)) / (1.0, 2.0, 0.5)).float().permute(2, 0, 1)[None]
    with torch.inference_mode():
        answer = net(by_hand)[0].sigmoid().numpy()[0, 0]
    np.testing.assert_allclose(net_runner(net, SIDE).small_mask(photo), answer, atol=1e-5)
    for preprocess in ("embedded", "external"):
        for runtime in ("opencv", "onnxruntime"):
            mask = cut(onnx_runner(tmp_path / f"{preprocess}-fp32.onnx", runtime), photo).mask
            assert np.abs(mask - expected).max() <= 1


def test_what_a_net_says_of_itself_is_its_own(dense):
    net = open_net(dense).net()
    other = with_size(open_net(dense).net(), [32, 48])
    assert (net.preprocess.size, other.preprocess.size, MadeUp.preprocess.size) == (SIDE, [32, 48], SIDE)
    assert net.classes is None and net.labels is None and not net.pruned
    assert net.published_keys().keys() == net.state_dict().keys()
