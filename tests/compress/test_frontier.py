"""A net run convolution by convolution: the same maps as in one pass, and no more kept than is needed."""

import pytest
import torch
from torch import nn

from tests.conftest import random_net
from u2slim.compress.frontier import Frontier
from u2slim.models import FCN, ConvVariant, DepthwiseSeparableConv, ICNet, PSPNet


def nets() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    semantic = {"width": 0.25, "classes": 5}
    return {
        "lite": random_net(),
        "dwsep": random_net(conv=DepthwiseSeparableConv),
        "icnet": ICNet(**semantic).eval(),
        "pspnet": PSPNet(**semantic).eval(),
        "fcn": FCN(**semantic).eval(),
    }


@torch.no_grad()
def inputs_by_one_pass(net: nn.Module, input_N3HW: torch.Tensor) -> dict[nn.Module, torch.Tensor]:
    found: dict[nn.Module, torch.Tensor] = {}
    hooks = [
        conv.register_forward_pre_hook(lambda own, x: found.update({own: x[0].clone()}))
        for conv in net.modules()
        if isinstance(conv, ConvVariant)
    ]
    net(input_N3HW)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("name", ["lite", "dwsep", "icnet", "pspnet", "fcn"])
def test_every_convolution_gets_what_it_gets_in_one_pass(name, tmp_path):
    net, input_N3HW = nets()[name], torch.randn(3, 3, 64, 96)
    expected = inputs_by_one_pass(net, input_N3HW)
    frontier = Frontier(net, input_N3HW, tmp_path, run=2)
    convs = [conv for conv in frontier.order if conv in expected]
    assert len(convs) == len(expected)
    most = 0
    with torch.no_grad():
        for number, conv in enumerate(convs):
            made = torch.cat(list(frontier.inputs(conv)))
            assert torch.allclose(made, expected[conv], rtol=0, atol=5e-3 * float(expected[conv].abs().max()))
            frontier.forget(convs[number:])
            most = max(most, len(list(tmp_path.iterdir())))
        frontier.forget([])
    assert not list(tmp_path.iterdir())
    assert most < len(convs), "what no later convolution needs is dropped on the way"


def test_a_convolution_refilled_on_the_way_acts_refilled_in_what_follows(tmp_path):
    net, input_N3HW = random_net(), torch.randn(2, 3, 32, 32)
    frontier = Frontier(net, input_N3HW, tmp_path)
    first, second = net.encoder[0].stem.conv, net.encoder[0].encoder[0].conv
    with torch.no_grad():
        before = torch.cat(list(frontier.inputs(first)))
        assert torch.equal(before, input_N3HW)
        first.weight.mul_(2)
        after = torch.cat(list(frontier.inputs(second)))
    assert torch.allclose(after, inputs_by_one_pass(net, input_N3HW)[second], atol=5e-3 * float(after.abs().max()))


def test_maps_beyond_float16_are_kept_as_they_are(tmp_path):
    net, input_N3HW = random_net(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        net.encoder[0].stem.conv.weight.mul_(1e8)
        made = torch.cat(list(Frontier(net, input_N3HW, tmp_path).inputs(net.encoder[0].encoder[0].conv)))
    expected = inputs_by_one_pass(net, input_N3HW)[net.encoder[0].encoder[0].conv]
    assert made.isfinite().all() and torch.allclose(made, expected, atol=1e-4 * float(expected.max()))
