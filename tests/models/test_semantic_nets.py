"""ICNet and the nets it was measured against: sizes, weights of torchvision's layout, variants, pruning."""

import hashlib
import logging

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import nn

from tests.conftest import REPO, run, write_set
from u2slim.compress import init
from u2slim.compress.prune import prune, widths
from u2slim.data.unlabelled import Photos
from u2slim.errors import UserError
from u2slim.models import (
    ConvVariant,
    DepthwiseSeparableConv,
    GroupedConv,
    ICNet,
    LowRankConv,
    PSPNet,
    StandardConv,
    U2Net,
    build_net,
)
from u2slim.models.fcn import LearnedUpsampling
from u2slim.models.parsenet import L2Norm
from u2slim.models.pyramid import pooled
from u2slim.models.recompute import recompute_activations
from u2slim.models.resnet import ResNet
from u2slim.zoo import checkpoints, open_net
from u2slim.zoo.backbone import load_backbone

NETS = ("icnet", "pspnet", "fcn", "parsenet")
CONVS = {"grouped": GroupedConv, "dwsep": DepthwiseSeparableConv, "lowrank": LowRankConv}


def config(name: str, **settings) -> dict:
    group = OmegaConf.to_container(OmegaConf.load(REPO / f"conf/model/{name}.yaml"))
    return group | {"classes": 5, "backbone": "resnet18", "width": 0.125} | settings


def tiny(name: str, seed: int = 0, **settings) -> nn.Module:
    """A net whose every tensor is random, running statistics included."""
    torch.manual_seed(seed)
    net = build_net(config(name, **settings)).eval()
    for key, tensor in net.state_dict().items():
        if key.endswith(("running_mean", "bn1.bias", "bn.bias")):
            tensor.copy_(torch.randn_like(tensor) * 0.1)
        elif key.endswith("running_var"):
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    return net


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def part(size: tuple[int, int], of: int) -> tuple[int, int]:
    return -(-size[0] // of), -(-size[1] // of)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (71, 100)])
def test_logits_have_the_inputs_size_or_their_own(size):
    own = {"icnet": (4, 8, 16), "pspnet": (8, 8), "fcn": (1,), "parsenet": (8,)}
    for name in NETS:
        for backbone in ("resnet18", "resnet50"):
            net, image = tiny(name, backbone=backbone), torch.rand(2, 3, *size)
            with torch.no_grad():
                full, small = net(image), net(image, upsampled=False)
            assert [tuple(t.shape) for t in full] == [(2, 5, *size)] * len(own[name])
            assert [tuple(t.shape) for t in small] == [(2, 5, *part(size, of)) for of in own[name]]
            for logits, enlarged in zip(small, full, strict=True):
                torch.testing.assert_close(F.interpolate(logits, size=size, mode="bilinear"), enlarged)


@pytest.mark.parametrize(
    ("name", "millions"),
    # Published: ICNet 26.5; PSPNet-50 without its auxiliary output 46.5 (ours: 2.4 less).
    [("icnet", 26.52), ("pspnet", 48.96), ("fcn", 23.68), ("parsenet", 32.97)],
)
def test_sizes_of_the_configured_nets(name, millions):
    with torch.device("meta"):
        net = build_net(OmegaConf.to_container(OmegaConf.load(REPO / f"conf/model/{name}.yaml")))
    assert parameters(net) / 1e6 == pytest.approx(millions, abs=0.01)
    assert net.name == f"{name}-resnet50" and net.classes == 19
    if name == "pspnet":
        auxiliary = parameters(net.auxiliary) + parameters(net.auxiliary_head)
        assert (parameters(net) - auxiliary) / 1e6 == pytest.approx(46.5, abs=0.1)


def torchvision_layout(backbone: str) -> dict[str, tuple[int, ...]]:
    """torchvision's state dictionary, written down from its documentation and not from our net."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name, out, inputs, kernel):
        shapes[f"{name}.weight"] = (out, inputs, kernel, kernel)

    def norm(name, channels):
        shapes.update({f"{name}.{key}": (channels,) for key in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    conv("conv1", 64, 3, 7)
    norm("bn1", 64)
    depths, expansion = {"resnet50": ((3, 4, 6, 3), 4), "resnet18": ((2, 2, 2, 2), 1)}[backbone]
    inputs = 64
    for level, depth in enumerate(depths):
        planes = 64 * 2**level
        for number in range(depth):
            block = f"layer{level + 1}.{number}"
            if expansion == 4:
                kernels = [(planes, inputs, 1), (planes, planes, 3), (4 * planes, planes, 1)]
            else:
                kernels = [(planes, inputs, 3), (planes, planes, 3)]
            for index, (out, into, kernel) in enumerate(kernels, 1):
                conv(f"{block}.conv{index}", out, into, kernel)
                norm(f"{block}.bn{index}", out)
            if number == 0 and inputs != planes * expansion:
                conv(f"{block}.downsample.0", planes * expansion, inputs, 1)
                norm(f"{block}.downsample.1", planes * expansion)
            inputs = planes * expansion
    return shapes | {"fc.weight": (1000, inputs), "fc.bias": (1000,)}


def torchvision_state(backbone: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.rand(shape, generator=generator) if shape else torch.tensor(7)
        for key, shape in torchvision_layout(backbone).items()
    }


@pytest.mark.parametrize(("backbone", "published"), [("resnet50", 25_557_032), ("resnet18", 11_689_512)])
def test_the_backbone_is_torchvisions_but_for_the_classifier(backbone, published):
    with torch.device("meta"):
        net = ResNet(backbone)
    ours = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
    layout = torchvision_layout(backbone)
    assert parameters(net) + 1000 * layout["fc.weight"][1] + 1000 == published
    assert ours == {key: shape for key, shape in layout.items() if not key.startswith("fc.")}
    strided = {name for name, m in net.named_modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)}
    assert "layer2.0.conv2" in strided if backbone == "resnet50" else "layer2.0.conv1" in strided


def test_torchvisions_file_fills_every_net_by_its_names(tmp_path):
    state = torchvision_state("resnet18")
    torch.save(state, tmp_path / "ours.pth")
    digest = hashlib.sha256((tmp_path / "ours.pth").read_bytes()).hexdigest()
    path = (tmp_path / "ours.pth").rename(tmp_path / f"resnet18-{digest[:8]}.pth")
    for name in NETS:
        net = init.backbone(build_net(config(name, width=1.0)), weights=path)
        for key, tensor in net.backbone.state_dict().items():
            assert torch.equal(tensor, state[key]), key
    grouped = build_net(config("icnet", width=1.0, conv={"_target_": "u2slim.models.GroupedConv", "_partial_": True}))
    init.backbone(grouped, weights=path, method="mean")
    dense = state["layer2.1.conv1.weight"]
    assert torch.allclose(grouped.backbone.layer2[1].conv1.weight, (dense[:, ::2] + dense[:, 1::2]) / 2)
    assert torch.equal(grouped.backbone.layer2[0].downsample[0].weight, state["layer2.0.downsample.0.weight"])


def test_other_files_are_refused_with_the_cause(tmp_path, monkeypatch, caplog):
    state = torchvision_state("resnet18")
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    with pytest.raises(
        UserError, match="not hold torchvision's resnet50: .* missing.*resnet50-0676ba61.pth, or another"
    ):
        load_backbone(path, "resnet50")
    torch.save({key: tensor for key, tensor in state.items() if key != "bn1.bias"}, path)
    with pytest.raises(UserError, match=r"resnet18: 1 of its 120 tensors are missing \['bn1.bias'\]"):
        load_backbone(path, "resnet18")
    torch.save(state | {"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}, path)
    with pytest.raises(UserError, match=r"1 are of another shape \['layer1.0.conv1.weight'\]"):
        load_backbone(path, "resnet18")
    with pytest.raises(UserError, match="is damaged: its SHA-256 is .*, and its name says f37072fd"):
        load_backbone(path.rename(tmp_path / "resnet18-f37072fd.pth"), "resnet18")
    with pytest.raises(UserError, match="No weights file at .*nowhere.pth; check init.weights"):
        init.backbone(tiny("fcn", width=1.0), weights=tmp_path / "nowhere.pth")
    with pytest.raises(UserError, match="model.width=1, and no pruned net, not fcn-resnet18-x0.125"):
        init.backbone(tiny("fcn"), weights=tmp_path / "resnet18-f37072fd.pth")
    with pytest.raises(UserError, match="u2net-lite-standard has none"):
        init.backbone(U2Net("lite"))
    monkeypatch.setenv("U2SLIM_CACHE", str(tmp_path / "cache"))
    init.backbone(tiny("fcn"))
    with caplog.at_level(logging.WARNING):
        init.backbone(tiny("fcn", width=1.0))
    assert "resnet18 starts from random weights" in caplog.text and "init.weights=FILE" in caplog.text
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in caplog.text


def test_learned_upsampling_begins_as_bilinear_interpolation():
    x = torch.rand(2, 3, 9, 7)
    for times in (2, 8):
        with torch.no_grad():
            enlarged = LearnedUpsampling(3, times)(x)
        expected = F.interpolate(x, scale_factor=times, mode="bilinear")
        inside = (slice(None), slice(None), slice(times, -times), slice(times, -times))  # beyond, zeros play a part
        torch.testing.assert_close(enlarged[inside], expected[inside])
        assert enlarged.shape == expected.shape


def test_l2_norm_divides_by_each_pixels_length_and_scales_each_channel():
    norm, x = L2Norm(3), torch.randn(2, 3, 4, 5)
    with torch.no_grad():
        norm.scale[:, 1] = 2.0
        made = norm(x)
    for b, y, column in ((0, 0, 0), (1, 3, 4)):
        pixel = x[b, :, y, column].double()
        expected = pixel / (pixel[0] ** 2 + pixel[1] ** 2 + pixel[2] ** 2) ** 0.5 * torch.tensor([10.0, 2.0, 10.0])
        torch.testing.assert_close(made[b, :, y, column].double(), expected, rtol=1e-5, atol=1e-6)
    assert norm(torch.zeros(1, 3, 2, 2)).isfinite().all()


def test_pooling_is_adaptive_pooling_where_bins_divide_and_covers_every_pixel_where_not():
    x = torch.rand(1, 2, 12, 18)
    for bins in (1, 2, 3, 6):
        torch.testing.assert_close(pooled(x, bins), F.adaptive_avg_pool2d(x, bins))
    one = torch.zeros(1, 1, 11, 4)
    for y in range(11):
        one.zero_()[0, 0, y, 3] = 1
        assert pooled(one, 6).sum() > 0 and pooled(one, 6).shape == (1, 1, 6, 4)


def test_icnet_sees_each_branch_at_its_resolution():
    """The cascade by hand: the image halved into the shared layers, their output halved into the deep ones."""
    net, image = tiny("icnet", backbone="resnet50"), torch.rand(1, 3, 64, 96)
    seen = {}
    for name in ("backbone.conv1", "backbone.layer2.1", "backbone.layer4", "high.0", "fuse_high.coarse", "classify"):
        net.get_submodule(name).register_forward_pre_hook(lambda _, x, name=name: seen.update({name: x[0]}))
    with torch.no_grad():
        main, *_ = net(image)
    sizes = {name: tuple(x.shape[2:]) for name, x in seen.items()}
    assert sizes == {
        "backbone.conv1": (32, 48),
        "backbone.layer2.1": (2, 3),
        "backbone.layer4": (2, 3),
        "high.0": (64, 96),
        "fuse_high.coarse": (8, 12),
        "classify": (8, 12),
    }
    torch.testing.assert_close(seen["backbone.conv1"], F.avg_pool2d(image, 2))
    # The paper enlarges the features to 1/4 and classifies them there.
    with torch.no_grad():
        features = F.interpolate(seen["classify"], size=(16, 24), mode="bilinear")
        by_hand = F.interpolate(net.classify(features), size=(64, 96), mode="bilinear")
    torch.testing.assert_close(main, by_hand)


@pytest.mark.parametrize("variant", CONVS)
def test_variants_make_every_3x3_convolution_and_start_from_the_dense_net(tmp_path, variant):
    dense = tiny("icnet", backbone="resnet50")
    checkpoints.write_net(dense, 64, tmp_path / "dense.ckpt")
    conv = {"_target_": f"u2slim.models.{CONVS[variant].__name__}", "_partial_": True}
    write_set(tmp_path, "photos", "masks", 4)
    photos = Photos.below(tmp_path / "photos", 64)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        wanted = dense(image)[0]
    errors = {}
    for method in ("project", "lstsq"):
        net = build_net(config("icnet", backbone="resnet50", conv=conv))
        init.pretrained(net, tmp_path / "dense.ckpt", method, photos=photos)
        with torch.no_grad():
            errors[method] = float((net.eval()(image)[0] - wanted).square().mean() / wanted.var())
    assert net.name == f"icnet-resnet50-x0.125-{variant}"
    plain3x3 = [m for m in net.modules() if type(m) is nn.Conv2d and m.kernel_size == (3, 3) and m.groups == 1]
    rest = {"standard": 0, "grouped": 1, "dwsep": 1, "lowrank": 1 + 16 + 6}[variant]  # the first; low rank's own
    assert len(plain3x3) <= rest
    assert sum(isinstance(m, ConvVariant) for m in net.modules()) == 16 + 4
    assert errors["lstsq"] < errors["project"]
    with pytest.raises(UserError, match="dense.ckpt holds icnet-.*they differ in"):
        init.pretrained(build_net(config("icnet", width=0.25, backbone="resnet50", conv=conv)), tmp_path / "dense.ckpt")
    with pytest.raises(UserError, match="is published: give a checkpoint of its dense net"):
        init.pretrained(net)


def test_recomputed_activations_change_nothing():
    image, states = torch.rand(2, 3, 64, 64), []
    for recompute in (False, True):
        net = tiny("icnet").train()
        if recompute:
            recompute_activations(net.stages)
        sum(output.mean() for output in net(image)).backward()
        states.append([p.grad for p in net.parameters()] + list(net.state_dict().values()))
    for first, second in zip(*states, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)


def halved(net: nn.Module) -> nn.Module:
    prune(net, {name: max(1, round(width / 2)) for name, width in widths(net).items()})
    return net


def test_pruning_drops_exactly_the_weakest_filters_and_no_shape_breaks():
    pytest.importorskip("torch_pruning", reason="torch-pruning absent: pip install torch-pruning")
    net = tiny("icnet", backbone="resnet50")
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    halved(net)
    # A layer of its own: the 1x1 before a block's 3x3.
    name = "backbone.layer3.1.conv1"
    norms = before[f"{name}.weight"].abs().sum((1, 2, 3))
    kept = sorted(norms.argsort(descending=True)[: len(norms) // 2].tolist())
    # What it reads is a sum over the stage's blocks, so the sum of their norms decides.
    blocks = [f"backbone.layer3.{n}.conv3.weight" for n in range(6)] + ["backbone.layer3.0.downsample.0.weight"]
    together = sum(before[key].abs().sum((1, 2, 3)) for key in blocks)
    inputs = sorted(together.argsort(descending=True)[: len(together) // 2].tolist())
    after = net.state_dict()
    assert torch.equal(after[f"{name}.weight"], before[f"{name}.weight"][kept][:, inputs])
    assert torch.equal(after["backbone.layer3.1.bn1.running_var"], before["backbone.layer3.1.bn1.running_var"][kept])
    assert torch.equal(after["backbone.layer3.5.bn3.weight"], before["backbone.layer3.5.bn3.weight"][inputs])
    # Fusion adds two layers' outputs: again the sum decides.
    both = sum(before[f"fuse_high.{side}.conv.weight"].abs().sum((1, 2, 3)) for side in ("coarse", "fine"))
    fused = sorted(both.argsort(descending=True)[: len(both) // 2].tolist())
    assert torch.equal(after["classify.weight"], before["classify.weight"][:, fused])
    assert torch.equal(after["classify.bias"], before["classify.bias"])


@pytest.mark.parametrize("name", [*NETS, "standard"])
def test_a_pruned_net_is_half_as_wide_and_built_again_from_its_config(tmp_path, name):
    pytest.importorskip("torch_pruning", reason="torch-pruning absent: pip install torch-pruning")
    saliency = {"_target_": "u2slim.models.U2Net", "width": "lite"}
    net = build_net(saliency) if name == "standard" else tiny(name)
    heads = {id(head) for head in net.heads}
    ours = {key for key, module in net.named_modules() if isinstance(module, nn.Conv2d) and id(module) not in heads}
    full, size = widths(net), parameters(net)
    halved(net)
    assert all(width == (full[key] // 2 if key in ours else full[key]) for key, width in widths(net).items())
    assert 3 < size / parameters(net) < 4.1
    checkpoints.write_net(net, 64, tmp_path / "pruned.ckpt")
    again = open_net(tmp_path / "pruned.ckpt").net()
    image = torch.rand(1, 3, 47, 60)
    with torch.no_grad():
        for left, right in zip(again(image), net(image), strict=True):
            assert torch.equal(left, right)
    assert again.name.endswith("-pruned") and repr(again) == repr(net)


def test_what_cannot_be_pruned_or_built_is_named():
    pytest.importorskip("torch_pruning", reason="torch-pruning absent: pip install torch-pruning")
    with pytest.raises(UserError, match="icnet-resnet18-x0.125-dwsep is not dense"):
        halved(tiny("icnet", conv={"_target_": "u2slim.models.DepthwiseSeparableConv", "_partial_": True}))
    for channels in ("3-8", "3-8 8-0", "abc"):
        with pytest.raises(UserError, match="model.channels has . words, and the net .* convolutions"):
            build_net(config("fcn", channels=channels))
    with pytest.raises(UserError, match="model.backbone=resnet7 is not known; choose one of: resnet50, resnet18"):
        ICNet(backbone="resnet7")
    with pytest.raises(UserError, match="model.width=full: give how many times"):
        PSPNet(width="full")
    assert {type(m) for m in ICNet(width=0.125).modules() if isinstance(m, ConvVariant)} == {StandardConv}


@pytest.mark.slow
def test_the_doors_fill_a_variant_and_prune_in_steps_with_training_between(tmp_path):
    pytest.importorskip("torch_pruning", reason="torch-pruning absent: pip install torch-pruning")
    settings = ("task=semantic", "data=sample_semantic", "trainer=cpu", "trainer.precision=32-true")
    settings += ("model.backbone=resnet18", "model.width=0.125", "data.batch_size=2", "data.num_workers=0")
    run("train.py", *settings, "trainer.max_steps=1", "hydra.run.dir=dense", cwd=tmp_path)
    grouped = ("model.conv._target_=u2slim.models.GroupedConv", "init=pretrained", "init.count=8")
    weights = "init.weights=dense/checkpoints/last.ckpt"
    printed = run(
        "train.py", *settings, *grouped, weights, "trainer.max_steps=1", "hydra.run.dir=grouped", cwd=tmp_path
    )
    assert "least squares over 20 convolutions" in printed and "icnet-resnet18-x0.125-grouped" in printed
    command = (
        "checkpoint=dense/checkpoints/last.ckpt",
        "ratio=.5",
        "steps=2",
        "retrain=1",
        "hydra.run.dir=outputs/out",
    )
    printed = run("u2slim.compress.prune", *command, 'train=["optimizer.lr=0.25"]', cwd=tmp_path)
    assert "step 2 of 2" in printed and f"--config-dir '{tmp_path}/outputs/out' model=pruned" in printed
    refused = run("u2slim.compress.prune", "checkpoint=last", cwd=tmp_path, ok=False)
    assert "comes from an earlier pruning; name the one to prune" in refused
    refused = run(
        "u2slim.compress.prune",
        "checkpoint=grouped/checkpoints/last.ckpt",
        "hydra.run.dir=outputs/out",
        cwd=tmp_path,
        ok=False,
    )
    assert f"out holds a pruning of {tmp_path / 'dense/checkpoints/last.ckpt'}" in refused
    config = OmegaConf.load(tmp_path / "outputs/out/step2/train/config.yaml")
    assert (config.data.batch_size, config.optimizer.lr, config.trainer.max_steps) == (2, 0.25, 1)
    widths = {}
    for name in ("step1/pruned", "step1/train/checkpoints/last", "step2/pruned", "pruned"):
        net = open_net(tmp_path / f"outputs/out/{name}.ckpt").net()
        widths[name] = net.backbone.layer4[0].conv1.out_channels
    assert list(widths.values()) == [48, 48, 32, 32]
    dense = checkpoints.read(tmp_path / "dense/checkpoints/last.ckpt")["hyper_parameters"]
    kept = checkpoints.read(tmp_path / "outputs/out/pruned.ckpt")["hyper_parameters"]
    assert kept["size"] == dense["size"] and kept["classes"] == dense["classes"]
    config = OmegaConf.to_container(OmegaConf.load(tmp_path / "outputs/out/model/pruned.yaml"))
    assert repr(build_net(config)) == repr(net)
    checkpoints.write_net(tiny("icnet"), 64, tmp_path / "alone.ckpt")
    sentence = run("u2slim.compress.prune", "checkpoint=alone.ckpt", "retrain=1", cwd=tmp_path, ok=False)
    assert "its training settings are unknown" in sentence
