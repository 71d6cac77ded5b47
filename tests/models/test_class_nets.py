"""U2-Net and IS-Net with classes: their outputs, what fills them, and the whole way from training to classes."""

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from torch import nn

from tests.conftest import REPO, random_net, randomised, run
from u2slim.cli import plain, prepare_hydra
from u2slim.compress import init
from u2slim.data.sample import render
from u2slim.errors import UserError
from u2slim.export.calibration import Gate
from u2slim.export.deploy import Deployment
from u2slim.models import ICNet, ISNet, U2Net, build_net
from u2slim.runtime import net_runner, onnx_runner
from u2slim.training.losses import CascadeLoss
from u2slim.training.run import settle_model
from u2slim.zoo import open_net
from u2slim.zoo.checkpoints import write_net

U2NET = {"_target_": "u2slim.models.U2Net", "width": "lite"}


def conv(variant: str) -> dict:
    return {"conv": {"_target_": f"u2slim.models.{variant}", "_partial_": True}}


def test_each_output_has_a_map_a_class_and_nothing_else_changes():
    for mask, classes in ((U2Net("lite"), U2Net("lite", classes=5)), (ISNet(), ISNet(classes=5))):
        before, now = ({name: t.shape for name, t in net.state_dict().items()} for net in (mask, classes))
        assert before.keys() == now.keys() and (mask.classes, classes.classes) == (None, 5)
        assert {name.partition(".")[0] for name in now if now[name] != before[name]} <= {"sides", "fuse"}
        with torch.no_grad():
            small = classes.eval()(torch.rand(1, 3, 64, 96), upsampled=False)
        assert [tuple(t.shape[:2]) for t in small] == [(1, 5)] * len(classes.outputs)


@pytest.mark.parametrize("size", [(64, 64), (65, 47)])
def test_fused_classes_are_the_learned_sum_of_the_sides_at_any_size(size):
    net, image = random_net(classes=3), torch.rand(2, 3, *size)
    with torch.no_grad():
        fused, *sides = net(image)
        shortcut, *small = net(image, upsampled=False)
    by_hand = torch.einsum("cm,bmhw->bchw", net.fuse.weight[:, :, 0, 0], torch.cat(sides, 1))
    torch.testing.assert_close(fused, by_hand + net.fuse.bias[:, None, None])
    torch.testing.assert_close(shortcut, fused, rtol=1e-5, atol=1e-5)
    for side, enlarged in zip(small, sides, strict=True):
        torch.testing.assert_close(F.interpolate(side, size=size, mode="bilinear"), enlarged)


def test_the_fused_output_begins_as_the_mean_of_the_sides():
    with torch.no_grad():
        fused, *sides = U2Net("lite", classes=3).eval()(torch.rand(1, 3, 64, 64))
    torch.testing.assert_close(fused, torch.stack(sides).mean(0))


@pytest.mark.parametrize("classes", [1, 0, 2.0, "5", True])
def test_numbers_of_classes_that_cannot_be_are_refused(classes):
    with pytest.raises(UserError, match=f"model.classes={classes}: give a whole number from 2, or null for a mask"):
        U2Net("lite", classes=classes)


def test_the_loss_has_weights_for_every_net():
    label = torch.randint(5, (2, 32, 32))
    for net, weights in (
        (U2Net("lite", classes=5), [1] * 7),
        (ISNet(classes=5), [1] * 6),
        (ICNet(classes=5, width=0.1, backbone="resnet18"), [1, 0.4, 0.16]),
    ):
        logits = {name: torch.randn(2, 5, 8, 8) for name in net.outputs}
        small = F.interpolate(label[:, None].float(), (8, 8), mode="nearest-exact")[:, 0].long()
        expected = sum(w * F.cross_entropy(x, small) for w, x in zip(weights, logits.values(), strict=True))
        torch.testing.assert_close(CascadeLoss()(logits, label)[0], expected)
    with pytest.raises(UserError, match="loss.weights has 2 numbers; give 7: fused, side1"):
        CascadeLoss([1, 1]).weights_of(U2Net.outputs)


def body_and_heads(net: nn.Module) -> tuple[dict, dict]:
    heads = tuple(f"{name}." for name, module in net.named_modules() if module in net.heads)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    body, own = ({n: t for n, t in state.items() if n.startswith(heads) == wanted} for wanted in (False, True))
    return body, own


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("way", ["pretrained", "checkpoint"])
def test_all_but_the_heads_is_taken_from_a_net_of_masks_or_of_other_classes(tmp_path, caplog, way):
    caplog.set_level(logging.INFO)
    icnet = {"_target_": "u2slim.models.ICNet", "width": 0.1, "backbone": "resnet18"}
    for config, classes in ((U2NET, None), (U2NET, 3), (icnet, 7)):
        dense = randomised(build_net(config | {"classes": classes}))
        write_net(dense, 64, tmp_path / "dense.ckpt")
        net = build_net(config | {"classes": 5})
        _, own_heads = body_and_heads(net)
        filled = {
            "pretrained": lambda net: init.pretrained(net, tmp_path / "dense.ckpt", method="project"),
            "checkpoint": lambda net: init.checkpoint(net, tmp_path / "dense.ckpt"),
        }[way](net)
        body, heads = body_and_heads(filled)
        assert_same(body, body_and_heads(dense)[0])
        assert_same(heads, own_heads)
        assert "; its heads, of 5 classes, start from random weights" in caplog.messages[-1]
    again = build_net(config | {"classes": classes})
    (init.checkpoint if way == "checkpoint" else init.pretrained)(again, tmp_path / "dense.ckpt")
    assert_same(again.state_dict(), dense.state_dict())
    assert "at random" not in caplog.messages[-1]


def test_published_weights_fill_a_variant_with_classes(tmp_path):
    published = random_net()
    tensors = published.state_dict()
    torch.save({theirs: tensors[ours] for theirs, ours in U2Net.published_keys().items()}, tmp_path / "u2netp.pth")
    net = build_net(U2NET | conv("GroupedConv") | {"classes": 4})
    init.pretrained(net, tmp_path / "u2netp.pth", method="project")
    assert torch.equal(net.encoder[2].stem.bn.running_mean, published.encoder[2].stem.bn.running_mean)
    assert net.sides[0].weight.shape[0] == 4


def test_what_cannot_be_taken_is_said(tmp_path):
    for name, classes in (("mask", None), ("classes", 3)):
        write_net(build_net(U2NET | {"classes": classes}), 64, tmp_path / f"{name}.ckpt")
    with pytest.raises(UserError, match="holds another net than the model of this config"):
        init.checkpoint(build_net(U2NET), tmp_path / "classes.ckpt")
    with pytest.raises(UserError, match=r"they differ in fuse.bias. Use model.classes=3"):
        init.pretrained(build_net(U2NET), tmp_path / "classes.ckpt")
    with pytest.raises(UserError, match="holds another net than the model of this config"):
        init.checkpoint(build_net(U2NET | conv("GroupedConv") | {"classes": 3}), tmp_path / "mask.ckpt")
    with pytest.raises(UserError, match="has none; use init=pretrained, or init=random"):
        init.backbone(build_net(U2NET | {"classes": 3}))


def test_the_doors_config_gives_any_net_the_datas_classes():
    prepare_hydra()
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        for words, name in (
            (["model=dwsep", "model.width=lite"], "u2net-lite-dwsep"),
            (["model=isnet"], "isnet-standard"),
            (["model=of_init", "init=checkpoint", "init.path=lite-dwsep"], "u2net-lite-dwsep"),
        ):
            cfg = compose("train", ["task=semantic", "data=sample_semantic", *words])
            settle_model(cfg)
            with torch.device("meta"):
                net = build_net(plain(cfg.model))
            assert (net.name, net.classes) == (name, 5)


@pytest.mark.slow
def test_a_shipped_net_learns_classes_and_every_runtime_tells_them_as_torch_does(tmp_path):
    printed = run(
        "train.py", "task=semantic", "data=sample_semantic", "model=of_init", "init=checkpoint", "init.path=lite-dwsep",
        "trainer=cpu", "trainer.precision=32-true", "trainer.max_steps=2", "data.batch_size=2", "data.num_workers=0",
        "hydra.run.dir=run", cwd=tmp_path,
    )  # fmt: skip
    assert "its heads, of 5 classes, start from random weights" in printed and "val/mIoU" in printed
    net = open_net(tmp_path / "run/checkpoints/last.ckpt").net()
    assert (net.classes, net.name, net.labels["names"][2]) == (5, "u2net-lite-dwsep", "house")
    images = [render(0, index)[0] for index in range(2)]
    rows = Deployment(net, [64, 96], images, images, Gate([], images, 1.0)).write(
        tmp_path / "net.onnx", "embedded", "fp32"
    )
    assert len(rows) >= 2 and all(row.largest <= 1e-4 for row in rows)
    expected = net_runner(net, [64, 96]).class_map(images[0])
    for runtime in ("opencv", "onnxruntime"):
        assert (onnx_runner(tmp_path / "net.onnx", runtime).class_map(images[0]) != expected).mean() < 0.002
    with pytest.raises(UserError, match="holds no net that torch can build from an ONNX file"):
        open_net(tmp_path / "net.onnx").net()
    assert len(np.unique(expected)) > 1, "several classes are compared"
