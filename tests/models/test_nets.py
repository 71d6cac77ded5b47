"""The nets: sizes, shapes, and what a variant's convolution computes."""

import pytest
import torch
import torch.nn.functional as F

from tests.conftest import random_net
from u2slim.errors import UserError
from u2slim.models import DepthwiseSeparableConv, GroupedConv, LowRankConv, StandardConv, U2Net, build_net
from u2slim.models.recompute import recompute_activations

VARIANTS = {
    "standard": StandardConv,
    "grouped": GroupedConv,
    "dwsep": DepthwiseSeparableConv,
    "lowrank": LowRankConv,
}


@pytest.mark.parametrize(
    ("width", "variant", "megabytes"),
    [
        ("full", "standard", 176.0),
        ("full", "grouped", 88.2),
        ("full", "dwsep", 20.7),
        ("lite", "standard", 4.5),
        ("lite", "grouped", 2.3),
        ("lite", "dwsep", 0.7),
        ("full", "lowrank", 88.2),
        ("lite", "lowrank", 2.3),
    ],
)
def test_size_in_megabytes(width, variant, megabytes):
    with torch.device("meta"):
        net = U2Net(width, VARIANTS[variant])
    size = sum(t.numel() * t.element_size() for t in net.state_dict().values()) / 1e6
    assert size == pytest.approx(megabytes, rel=0.01, abs=0.05 if width == "lite" else 0)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 100)])
def test_seven_logits_of_the_input_size(variant, size):
    net = U2Net("lite", VARIANTS[variant]).eval()
    with torch.no_grad():
        logits = net(torch.rand(2, 3, *size))
    assert [tuple(t.shape) for t in logits] == [(2, 1, *size)] * 7


def test_fused_is_the_learned_sum_of_the_sides():
    net = random_net()
    with torch.no_grad():
        fused, *sides = net(torch.rand(1, 3, 48, 48))
        by_hand = sum(w * side for w, side in zip(net.fuse.weight.flatten(), sides, strict=True)) + net.fuse.bias
    torch.testing.assert_close(fused, by_hand)


def test_grouped_leaves_stem_and_heads_dense():
    net = U2Net("lite", GroupedConv)
    assert net.encoder[0].stem.conv.groups == 1
    assert [head.groups for head in net.sides] == [1] * 6
    assert {m.groups for m in net.modules() if isinstance(m, GroupedConv)} == {1, 2}
    assert sum(m.groups == 1 for m in net.modules() if isinstance(m, GroupedConv)) == 1


@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_variants_compute_their_convolutions(dilation):
    x = torch.rand(1, 4, 16, 16)
    options = {"padding": dilation, "dilation": dilation}
    grouped = GroupedConv(4, 6, dilation)
    halves = [
        F.conv2d(x[:, 2 * g : 2 * g + 2], grouped.weight[3 * g : 3 * g + 3], grouped.bias[3 * g : 3 * g + 3], **options)
        for g in range(2)
    ]
    torch.testing.assert_close(grouped(x), torch.cat(halves, 1))

    grouped = GroupedConv(4, 6, dilation, shuffle=True)
    halves = [F.conv2d(x[:, g::2], grouped.weight[3 * g : 3 * g + 3], **options) for g in range(2)]
    torch.testing.assert_close(grouped(x), torch.cat(halves, 1) + grouped.bias[:, None, None])

    low = LowRankConv(4, 6, dilation, share=0.5)
    assert len(low.reduce.weight) == round(0.5 * 9 * 4 * 6 / (9 * 4 + 6)) == 3
    kernel = torch.einsum("rihw,or->oihw", low.reduce.weight, low.expand.weight[:, :, 0, 0])
    torch.testing.assert_close(low(x), F.conv2d(x, kernel, low.expand.bias, **options))

    low = LowRankConv(4, 6, dilation, rank=5, narrow=2)
    kernel = torch.einsum("rnhw,or->onhw", low.reduce.weight, low.expand.weight[:, :, 0, 0])
    kernel = torch.einsum("onhw,ni->oihw", kernel, low.narrow.weight[:, :, 0, 0])
    torch.testing.assert_close(low(x), F.conv2d(x, kernel, low.expand.bias, **options))

    separable = DepthwiseSeparableConv(4, 6, dilation)
    kernel = torch.einsum("ihw,oi->oihw", separable.depthwise.weight[:, 0], separable.pointwise.weight[:, :, 0, 0])
    bias = separable.pointwise.bias + separable.pointwise.weight[:, :, 0, 0] @ separable.depthwise.bias
    torch.testing.assert_close(separable(x), F.conv2d(x, kernel, bias, **options))


def test_a_stem_of_its_own_costs_six_kilobytes_and_keeps_the_name():
    plain, dense_stem = U2Net("lite", DepthwiseSeparableConv), U2Net("lite", DepthwiseSeparableConv, stem=StandardConv)
    more = sum(p.numel() for p in dense_stem.parameters()) - sum(p.numel() for p in plain.parameters())
    assert more == (64 * 3 * 9 + 64) - (3 * 9 + 3 + 64 * 3 + 64)
    assert plain.name == dense_stem.name == "u2net-lite-dwsep"


def test_unknown_width_is_named_with_the_choices():
    with pytest.raises(UserError, match="model.width=medium.*full, lite"):
        U2Net("medium")


@pytest.mark.parametrize("target", ["os.system", "u2slim.models.conv.torch.hub.load", "u2slim.models.u2net.U2Net"])
def test_a_checkpoints_model_config_cannot_call_anything_else(target):
    call = {"_target_": target, "_partial_": True}
    for conv, reason in (
        (call, "may not build"),
        ([call], "only plain values"),
        ("${oc.create:{_target_: os.getcwd}}", "only plain values"),
    ):
        with pytest.raises(UserError, match=reason):
            build_net({"_target_": "u2slim.models.U2Net", "width": "lite", "conv": conv})


def test_groups_that_do_not_divide_are_refused():
    with pytest.raises(UserError, match="groups=3 does not divide 64 -> 16"):
        GroupedConv(64, 16, groups=3)


def test_recomputed_activations_change_nothing_but_memory():
    image = torch.rand(2, 3, 64, 64)
    states = []
    for recompute in (False, True):
        net = random_net().train()
        if recompute:
            recompute_activations(net.stages)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t):
            loss = sum(output.mean() for output in net(image))
        loss.backward()
        states.append((loss, [p.grad for p in net.parameters()], net.state_dict(), sum(kept)))
    for first, second in zip(*(state[:2] for state in states), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)
    for name, tensor in states[0][2].items():
        assert torch.equal(tensor, states[1][2][name]), name
    assert states[1][3] < states[0][3] / 2
