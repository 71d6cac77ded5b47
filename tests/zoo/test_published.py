"""Published files: read by their own key names, refused with a reason, and turned into every variant."""

import hashlib
from functools import partial

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from tests.conftest import REPO, random_net
from u2slim.compress import init
from u2slim.data.sample import render
from u2slim.errors import UserError
from u2slim.models import ConvVariant, DepthwiseSeparableConv, GroupedConv, LowRankConv, StandardConv, U2Net, build_net
from u2slim.training import resume
from u2slim.zoo import DEFAULT, SHIPPED, Shipped, checkpoints, open_net, shipped
from u2slim.zoo import published as weights
from u2slim.zoo.checkpoints import write_net
from u2slim.zoo.shipped import NETS


def test_key_map_is_one_to_one_and_complete():
    names = U2Net.published_keys()
    with torch.device("meta"):
        ours = set(U2Net("full").state_dict())
    assert set(names.values()) == ours
    assert len(names) == len(ours) == 798
    assert names["stage1.rebnconvin.conv_s1.weight"] == "encoder.0.stem.conv.weight"
    assert names["stage1.rebnconv7.bn_s1.running_mean"] == "encoder.0.bottom.bn.running_mean"
    assert names["stage4d.rebnconv1d.conv_s1.bias"] == "decoder.1.decoder.2.conv.bias"
    assert names["outconv.weight"] == "fuse.weight"


@pytest.mark.parametrize("width", ["lite", "full"])
def test_published_layout_loads_strict(tmp_path, width):
    net = random_net(width)
    names = U2Net.published_keys()
    path = tmp_path / "w.pth"
    torch.save({official: net.state_dict()[ours] for official, ours in names.items()}, path)
    loaded = U2Net(width).eval()
    config, tensors = weights.load_published(path)
    assert config["width"] == width
    loaded.load_state_dict(tensors)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x)[0], net(x)[0], rtol=0, atol=0)


def test_wrong_files_are_named(tmp_path, published):
    with pytest.raises(UserError, match="holds u2net-lite-standard, not a dense u2net-full.*Use model.width=lite"):
        init.pretrained(build_net({"_target_": "u2slim.models.U2Net", "width": "full"}), weights=published)

    page = tmp_path / "page.pth"
    page.write_text("\n<!DOCTYPE html><html>quota exceeded</html>")
    with pytest.raises(UserError, match="is a web page, not weights"):
        weights.load_published(page)

    cut = tmp_path / "cut.pth"
    cut.write_bytes(published.read_bytes()[:100_000])
    with pytest.raises(UserError, match=r"0\.1 MB.*truncated.*u2netp\.pth 4\.8 MB"):
        weights.load_published(cut)

    lightning = tmp_path / "run.pth"
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6"}, lightning)
    with pytest.raises(UserError, match="training checkpoint.*checkpoint="):
        weights.load_published(lightning)

    other = tmp_path / "other.pth"
    torch.save({"layer.weight": torch.zeros(3)}, other)
    with pytest.raises(UserError, match="798 missing.*1 unknown.*layer.weight"):
        weights.load_published(other)

    with pytest.raises(UserError, match="No weights file at .*nowhere"):
        weights.load_published(tmp_path / "nowhere.pth")


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "harmful.pth"
    torch.save({"x": Harmful()}, path)
    with pytest.raises(UserError, match="cannot be read"):
        weights.load_published(path)
    assert not (tmp_path / "ran").exists()


def published_state(net) -> dict[str, torch.Tensor]:
    state = net.state_dict()
    return {official: state[ours] for official, ours in U2Net.published_keys().items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
        lambda state: {f"_orig_mod.module.{key}": tensor for key, tensor in state.items()},
        lambda state: {"model": state, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda state: {"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}, "loss": torch.ones(1)},
        lambda state: {"net": state, "args": ["--lr", 0.1]},
        lambda state: {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")},
        lambda state: {key: torch.nn.Parameter(t) if t.is_floating_point() else t for key, t in state.items()},
    ],
    ids=["DataParallel", "compiled", "model", "state_dict", "net", "no counters", "parameters"],
)
def test_files_as_people_have_them_are_read(tmp_path, wrap):
    net = random_net()
    torch.save(wrap(published_state(net)), tmp_path / "theirs.pth")
    config, tensors = weights.load_published(tmp_path / "theirs.pth")
    assert config["width"] == "lite" and len(tensors) == 798
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensors[name], tensor), name


def test_a_file_of_torchs_first_format_is_read(tmp_path):
    """The published `.pth` files are of it."""
    net = random_net()
    torch.save(published_state(net), tmp_path / "old.PTH", _use_new_zipfile_serialization=False)
    opened = open_net(tmp_path / "old.PTH").net()
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in opened.state_dict().items())


class Theirs(torch.nn.Module):
    """A module of somebody's own, which leaves a file where it is built from a pickle."""

    def __init__(self, path):
        super().__init__()
        self.path, self.conv = path, torch.nn.Conv2d(3, 1, 3)

    def __setstate__(self, state):
        state["path"].write_text("ran")
        super().__setstate__(state)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_whole_pickled_module_is_refused_with_the_reason_and_nothing_runs(tmp_path, is_zip):
    path = tmp_path / "whole.pth"
    for content in (Theirs(tmp_path / "ran"), {"model": Theirs(tmp_path / "ran")}):
        torch.save(content, path, _use_new_zipfile_serialization=is_zip)
        with pytest.raises(UserError, match="without running code .* it holds .*Theirs, and not tensors alone"):
            open_net(path).net()
        assert not (tmp_path / "ran").exists()
    torch.save([torch.zeros(1)], path)
    with pytest.raises(UserError, match="holds a list, not a dictionary of tensors"):
        open_net(path).net()


def test_a_tensor_of_another_shape_is_named(tmp_path):
    state = published_state(random_net())
    state["side3.weight"] = torch.zeros(1, 32, 3, 3)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(UserError, match="tensors of u2net, but .* of another shape|1 of another shape, e.g. side3"):
        weights.load_published(tmp_path / "other.pth")


def convolutions(net, dense):
    for name, module in net.named_modules():
        if isinstance(module, ConvVariant):
            yield module, dense.get_submodule(name)


def test_mean_grouped_averages_adjacent_input_channels():
    dense, net = random_net(), U2Net("lite", GroupedConv)
    init.transfer(dense, net, "mean")
    layers = list(convolutions(net, dense))
    assert len(layers) == 112
    for grouped, source in layers:
        weight = source.weight
        if weight.shape[1] != 3:
            weight = torch.stack(
                [(weight[:, i] + weight[:, i + 1]) / 2 for i in range(0, weight.shape[1], 2)],
                dim=1,
            )
        torch.testing.assert_close(grouped.weight, weight)
        torch.testing.assert_close(grouped.bias, source.bias, rtol=0, atol=0)


def test_mean_dwsep_averages_over_outputs_and_over_the_window():
    dense, net = random_net(), U2Net("lite", DepthwiseSeparableConv)
    init.transfer(dense, net, "mean")
    layers = list(convolutions(net, dense))
    assert len(layers) == 112
    for separable, source in layers:
        out_channels, in_channels = source.weight.shape[:2]
        depthwise = sum(source.weight[o] for o in range(out_channels))[:, None] / out_channels
        pointwise = sum(source.weight[:, :, y, x] for y in range(3) for x in range(3))[..., None, None] / 9
        torch.testing.assert_close(separable.depthwise.weight, depthwise)
        assert separable.depthwise.bias.eq(0).all() and separable.depthwise.bias.shape == (in_channels,)
        torch.testing.assert_close(separable.pointwise.weight, pointwise)
        torch.testing.assert_close(separable.pointwise.bias, source.bias, rtol=0, atol=0)


@pytest.mark.parametrize("shuffle", [False, True])
def test_project_grouped_keeps_the_weights_within_a_group(shuffle):
    dense, net = random_net(), U2Net("lite", partial(GroupedConv, shuffle=shuffle))
    init.transfer(dense, net, "project")
    for grouped, source in convolutions(net, dense):
        o, i = source.weight.shape[:2]
        if i == 3:
            continue
        seen = [range(0, i, 2), range(1, i, 2)] if shuffle else [range(i // 2), range(i // 2, i)]
        for channel in range(o):
            expected = source.weight[channel, list(seen[channel >= o // 2])]
            torch.testing.assert_close(grouped.weight[channel], expected, rtol=0, atol=0)
        torch.testing.assert_close(grouped.bias, source.bias, rtol=0, atol=0)


def test_project_dwsep_is_the_nearest_product_of_each_input_channel():
    dense, net = random_net(), U2Net("lite", DepthwiseSeparableConv)
    init.transfer(dense, net, "project")
    for separable, source in list(convolutions(net, dense))[:20]:
        made = torch.einsum("ihw,oi->oihw", separable.depthwise.weight[:, 0], separable.pointwise.weight[:, :, 0, 0])
        for channel in range(source.weight.shape[1]):
            matrix = source.weight[:, channel].flatten(1).detach().numpy()
            lost = np.linalg.svd(matrix, compute_uv=False)[1:]  # Eckart and Young: no product comes nearer
            distance = np.linalg.norm(matrix - made[:, channel].flatten(1).detach().numpy())
            assert distance == pytest.approx(np.sqrt((lost**2).sum()), rel=1e-4)


def test_project_lowrank_is_the_nearest_of_its_rank():
    dense, net = random_net(), U2Net("lite", LowRankConv)
    init.transfer(dense, net, "project")
    for low, source in list(convolutions(net, dense))[:20]:
        made = torch.einsum("rihw,or->oihw", low.reduce.weight, low.expand.weight[:, :, 0, 0])
        matrix = source.weight.flatten(1).detach().numpy()
        lost = np.linalg.svd(matrix, compute_uv=False)[len(low.reduce.weight) :]
        distance = np.linalg.norm(matrix - made.flatten(1).detach().numpy())
        assert distance == pytest.approx(np.sqrt((lost**2).sum()), rel=1e-4)
        torch.testing.assert_close(low.expand.bias, source.bias, rtol=0, atol=0)


def test_project_narrowed_drops_the_inputs_least_directions():
    weight, low = torch.randn(6, 8, 3, 3), LowRankConv(8, 6, rank=6, narrow=5)
    with torch.no_grad():
        low.fill_project(weight, None)
    expand, narrow = low.expand.weight[:, :, 0, 0], low.narrow.weight[:, :, 0, 0]
    made = torch.einsum("rnhw,or,ni->oihw", low.reduce.weight, expand, narrow)
    lost = np.linalg.svd(weight.transpose(0, 1).flatten(1).numpy(), compute_uv=False)[5:]
    assert float((made - weight).norm().detach()) == pytest.approx(np.sqrt((lost**2).sum()), rel=1e-4)


def test_averages_are_no_low_rank_net(published):
    with pytest.raises(
        UserError, match="init.method=mean is not known for u2net-lite-lowrank; choose one of: project, lstsq"
    ):
        init.pretrained(U2Net("lite", LowRankConv), weights=published, method="mean")


@pytest.mark.parametrize("conv", [StandardConv, GroupedConv, DepthwiseSeparableConv])
def test_everything_but_the_convolutions_is_carried_over(conv):
    dense, net = random_net(), U2Net("lite", conv)
    init.transfer(dense, net, "mean")
    carried = [key for key in net.state_dict() if ".bn." in key or key.startswith(("sides.", "fuse."))]
    assert len(carried) == 112 * 5 + 14
    for key in carried:
        torch.testing.assert_close(net.state_dict()[key], dense.state_dict()[key], rtol=0, atol=0)


def test_standard_variant_is_the_published_net(published):
    net = init.pretrained(U2Net("lite"), published).eval()
    x = torch.rand(1, 3, 40, 56)
    with torch.no_grad():
        torch.testing.assert_close(net(x)[0], random_net()(x)[0], rtol=0, atol=0)


def test_a_checkpoints_weights_begin_a_new_run(tmp_path):
    conv = {"_target_": "u2slim.models.GroupedConv", "_partial_": True}
    net = build_net({"_target_": "u2slim.models.U2Net", "width": "lite", "conv": conv})
    write_net(net, 64, tmp_path / "trained.ckpt")
    begun = init.checkpoint(U2Net("lite", GroupedConv), path=tmp_path / "trained.ckpt")
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in begun.state_dict().items())
    # The same tensors, but another net.
    shuffled = U2Net("lite", partial(GroupedConv, shuffle=True))
    with pytest.raises(UserError, match="trained.ckpt holds another net.*GroupedConv"):
        init.checkpoint(shuffled, path=tmp_path / "trained.ckpt")
    with pytest.raises(UserError, match="init.path=FILE"):
        init.checkpoint(shuffled)


def test_the_shipped_files_are_those_of_the_checksums_and_agree_with_each_other():
    for folder, ending in ((REPO / "weights", ".ckpt"), (NETS, ".onnx")):
        listed = dict(reversed(line.split()) for line in (folder / "SHA256SUMS").read_text().splitlines())
        files = [path for path in folder.iterdir() if path.suffix == ending]
        assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files} == listed
        names = {net.name for net in SHIPPED.values() if ending == ".onnx" or net.checkpoint}
        assert {path.stem for path in files} == names | ({"u2netp"} if ending == ".onnx" else set())
    photo = render(0, 1)[0]
    largest = {"lite-half": 1e-3, "lite-two-thirds": 1e-2, "lite-dwsep": 1e-3}  # the second's ONNX file has float16
    assert DEFAULT in largest
    for name, bound in largest.items():
        mask, same = (open_net(name).runner(runtime)(photo) for runtime in ("torch", "opencv"))
        assert np.abs(mask - same).max() < bound
        if name == "lite-dwsep":
            continue
        rounded = open_net(f"{name}-int8").runner("onnxruntime")
        assert np.abs(mask - rounded(photo)).mean() < 0.01
        net = open_net(name).net()
        assert (net.name, net.preprocess.size) == ("u2net-lite-ranked-lowrank", 320)
        assert net.config == OmegaConf.to_container(OmegaConf.load(REPO / f"conf/model/{name.replace('-', '_')}.yaml"))


@pytest.mark.parametrize("name", ["lite-l", "lite-m", "lite-s"])
def test_packed_nets_come_nearer_to_the_dense_net_than_those_before(name):
    """On a generated scene, in both runtimes that compute them; the configs are those that the files were filled by."""
    photo = render(0, 1)[0]
    dense, made = (open_net(net).runner("opencv")(photo) for net in ("u2netp", name))
    assert np.abs(made - open_net(name).runner("onnxruntime")(photo)).max() < 1e-3
    assert ((made > 0.5) & (dense > 0.5)).sum() > 0.9 * ((made > 0.5) | (dense > 0.5)).sum()
    net = build_net(OmegaConf.to_container(OmegaConf.load(REPO / f"conf/model/{name.replace('-', '_')}.yaml")))
    convs = [conv for conv in net.modules() if isinstance(conv, ConvVariant)]
    least = sum(p.numel() * conv.bits / 8 for conv in convs for p in conv.parameters() if p.ndim == 4)
    assert least < SHIPPED[name].onnx.stat().st_size < least + 110_000


def test_a_shipped_net_goes_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path)
    monkeypatch.setitem(SHIPPED, "lite-test", Shipped("lite-test", "for this test", (0.9, 0.1)))
    net = build_net({"_target_": "u2slim.models.U2Net", "width": "lite"})
    write_net(net, 64, tmp_path / "lite-test.ckpt")
    loaded = open_net("lite-test").net()
    assert loaded.preprocess.size == 64 and torch.equal(loaded.fuse.weight, net.fuse.weight)
    with pytest.raises(UserError, match=r"No net at other.*a shipped net \(.*lite-test\)"):
        open_net("other")


def test_a_checkpoint_from_before_a_setting_goes_on_and_a_net_alone_is_refused(tmp_path):
    net = build_net({"_target_": "u2slim.models.U2Net", "width": "lite"})
    write_net(net, 64, tmp_path / "net.ckpt")
    cfg = OmegaConf.create({"model": {**net.config, "stem": None}})
    with pytest.raises(UserError, match="net.ckpt holds a net without its training state; .* init=checkpoint"):
        resume._check(cfg, tmp_path / "net.ckpt", checkpoints.read(tmp_path / "net.ckpt"))
    cfg.model.stem = {"_target_": "u2slim.models.StandardConv", "_partial_": True}
    with pytest.raises(UserError, match="net.ckpt was trained with model"):
        resume._check(cfg, tmp_path / "net.ckpt", checkpoints.read(tmp_path / "net.ckpt"))


def test_unknown_method_is_named_with_the_choices(published):
    with pytest.raises(UserError, match="init.method=magic.*mean, project, lstsq"):
        init.pretrained(U2Net("lite"), published, method="magic")
