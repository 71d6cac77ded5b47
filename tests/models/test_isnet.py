"""IS-Net: its layout, its variants, its outputs, and what its files say of its input."""

import json

import pytest
import torch
from torch import nn

from tests.conftest import TINY, randomised, run, write_set
from u2slim.images.preprocess import ISNET_PREPROCESS
from u2slim.models import DepthwiseSeparableConv, GroupedConv, ISNet, LowRankConv, StandardConv, U2Net, build_net
from u2slim.models.recompute import recompute_activations
from u2slim.zoo import PUBLISHED, open_net
from u2slim.zoo.checkpoints import read, write_net

CONVS = {
    "standard": (StandardConv, 176),
    "grouped": (GroupedConv, 88),
    "dwsep": (DepthwiseSeparableConv, 21),
    "lowrank": (LowRankConv, 88),
}
ANIME = PUBLISHED["isnet-anime"].preprocess


def small() -> ISNet:
    """The smallest that there is, of 5 M parameters, in evaluation mode."""
    torch.manual_seed(1)
    return randomised(ISNet(DepthwiseSeparableConv))


@pytest.fixture(scope="module")
def net() -> ISNet:
    return small()


def test_key_map_is_one_to_one_and_complete():
    names = ISNet.published_keys()
    with torch.device("meta"):
        ours = set(ISNet().state_dict())
    assert set(names.values()) == ours
    assert len(names) == len(ours) == 798
    assert names["conv_in.weight"] == "halve.weight"
    assert names["stage1.rebnconvin.conv_s1.weight"] == "encoder.0.stem.conv.weight"
    assert names["stage3.rebnconv5.bn_s1.running_var"] == "encoder.2.bottom.bn.running_var"
    assert names["stage2d.rebnconv1d.conv_s1.bias"] == "decoder.3.decoder.4.conv.bias"
    assert names["side6.bias"] == "sides.5.bias" and "outconv.weight" not in names


def test_it_is_u2net_but_for_its_beginning_and_end():
    with torch.device("meta"):
        ours, theirs = ISNet().state_dict(), U2Net("full").state_dict()
    shapes, others = ({key: tuple(t.shape) for key, t in state.items()} for state in (ours, theirs))
    assert shapes.keys() - others.keys() == {"halve.weight", "halve.bias"}
    assert others.keys() - shapes.keys() == {"fuse.weight", "fuse.bias"}
    differ = {key for key in shapes.keys() & others.keys() if shapes[key] != others[key]}
    assert differ == {"encoder.0.stem.conv.weight"}
    assert shapes["encoder.0.stem.conv.weight"] == (64, 64, 3, 3) and shapes["halve.weight"] == (64, 3, 3, 3)


@pytest.mark.parametrize("variant", CONVS)
def test_every_variant_builds_at_its_size(variant):
    conv, megabytes = CONVS[variant]
    with torch.device("meta"):
        net = ISNet(conv)
    parameters = sum(p.numel() for p in net.parameters())
    assert 4 * parameters / 1e6 == pytest.approx(megabytes, rel=0.02)
    assert net.name == f"isnet-{variant}" and type(net.halve) is nn.Conv2d and net.halve.groups == 1
    assert sum(isinstance(module, conv) for module in net.modules()) == 112
    if variant == "standard":
        # U2-Net's 44,009,869 published ones, with another first convolution, one before it, and no sum of the sides.
        assert parameters == 44_009_869 + 64 * 61 * 9 + (64 * 3 * 9 + 64) - 7 == 44_046_790


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (127, 64)])
def test_six_logits_of_the_input_size_or_their_own(net, size):
    image = torch.rand(1, 3, *size)
    with torch.no_grad():
        full, own = net(image), net(image, upsampled=False)
    assert net.outputs == tuple(f"side{n}" for n in range(1, 7))
    assert [tuple(logits.shape) for logits in full] == [(1, 1, *size)] * 6
    # Half the size, an odd row or column counted as a whole one, again and again.
    sizes = [size]
    for _ in range(6):
        sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
    assert [tuple(logits.shape) for logits in own] == [(1, 1, *each) for each in sizes[1:]]
    for enlarged, logits in zip(full, own, strict=True):
        by_hand = nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(enlarged, by_hand)


@pytest.mark.parametrize(("preprocess", "is_its_own"), [(ISNET_PREPROCESS, True), (ANIME, False)])
def test_checkpoints_carry_its_normalisation(tmp_path, preprocess, is_its_own):
    conv = {"_target_": "u2slim.models.DepthwiseSeparableConv", "_partial_": True}
    made = build_net({"_target_": "u2slim.models.ISNet", "conv": conv})
    made.preprocess = preprocess
    write_net(made, 96, tmp_path / "net.ckpt")
    assert ("preprocess" in read(tmp_path / "net.ckpt")["hyper_parameters"]) != is_its_own
    opened = open_net(tmp_path / "net.ckpt").net()
    assert opened.name == "isnet-dwsep" and opened.preprocess.size == 96
    assert (opened.preprocess.mean, opened.preprocess.std) == (preprocess.mean, preprocess.std)
    assert not opened.preprocess.own_maximum and torch.equal(opened.halve.weight, made.halve.weight)


def test_what_is_published_says_how_its_input_is_made():
    assert ISNet.preprocess == PUBLISHED["isnet-general-use"].preprocess == ISNET_PREPROCESS
    assert (ISNET_PREPROCESS.size, ISNET_PREPROCESS.mean, ISNET_PREPROCESS.own_maximum) == (1024, (0.5,) * 3, False)
    assert (ANIME.size, ANIME.mean, ANIME.std) == (1024, (0.485, 0.456, 0.406), (1.0, 1.0, 1.0))


def test_recomputed_activations_change_nothing():
    image, gradients = torch.rand(1, 3, 64, 64), []
    for recompute in (False, True):
        net = small()
        if recompute:
            recompute_activations(net.stages)
        assert len(net.stages) == 11 and len(net.heads) == 6
        sum(output.mean() for output in net(image, upsampled=False)).backward()
        gradients.append([p.grad for p in net.parameters()])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.slow
def test_it_is_trained_and_validated_by_the_door(tmp_path):
    """Its answer is made at half the photo's size, and scored at the mask's."""
    write_set(tmp_path / "data/DUTS-TR", "DUTS-TR-Image", "DUTS-TR-Mask", 6)
    tiny = [setting for setting in TINY if not setting.startswith("model.")]
    settings = ("model=isnet", "model/conv=dwsep", "init=random", "data.val_count=2", "trainer.max_steps=2")
    printed = run("train.py", *settings, *tiny, "hydra.run.dir=out", cwd=tmp_path)
    assert "INFO trained isnet-dwsep to step 2" in printed
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert {"val/side1", "val/maxF", "val/MAE"} <= metrics.keys() and 0 < metrics["val/MAE"] < 1
    net = open_net(tmp_path / "out/checkpoints/last.ckpt").net()
    assert (net.name, net.preprocess.size, net.preprocess.mean) == ("isnet-dwsep", 64, (0.5, 0.5, 0.5))
