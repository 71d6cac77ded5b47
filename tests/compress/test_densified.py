"""Nets of other convolutions multiplied out, so that they can be filled anew: here with weights of few bits."""

import pytest
import torch

from tests.conftest import randomised, write_set
from u2slim.compress.init import densified, pretrained
from u2slim.export.packed import find_grid
from u2slim.models import Net, StandardConv, build_net
from u2slim.zoo.checkpoints import write_net

SIDE = 48


def filled(kind: str, **settings) -> Net:
    torch.manual_seed(0)
    return randomised(of(kind, **settings))


def of(kind: str, **settings) -> Net:
    conv = {"_target_": f"u2slim.models.{kind}Conv", "_partial_": True} | settings
    return build_net({"_target_": "u2slim.models.U2Net", "width": "lite", "conv": conv})


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("Grouped", {}),
        ("Grouped", {"shuffle": True}),
        ("DepthwiseSeparable", {}),
        ("LowRank", {"rank": 6}),
        ("LowRank", {"narrow": 2, "rank": 6}),
    ],
)
@torch.no_grad()
def test_a_net_multiplied_out_computes_the_same(kind, settings):
    net = filled(kind, **settings)
    dense = densified(net)
    assert {type(module) for module in dense.modules() if hasattr(module, "fills")} == {StandardConv}
    x = torch.randn(1, 3, 64, 96)
    for made, same in zip(net(x), dense(x), strict=True):
        assert (made - same).abs().max() <= 1e-5 * made.abs().max()


@pytest.mark.slow
def test_a_trained_net_of_low_rank_gets_weights_of_few_bits(tmp_path):
    """It is filled from itself: of its rank, what the weights multiplied out make is found again, to rounding."""
    trained = filled("LowRank", rank=6)
    write_net(trained, SIDE, tmp_path / "trained.ckpt")
    write_set(tmp_path, "photos", "masks", 3)
    net = of("LowRank", rank=6, bits=8)
    pretrained(net, tmp_path / "trained.ckpt", folder=tmp_path / "photos", count=3, lstsq={"pixels": 1000, "rounds": 2})
    convs = [m for n, m in net.named_modules() if n.endswith(("reduce", "expand"))]
    assert len(convs) == 2 * 112
    assert all(find_grid(conv.weight.detach().numpy()) for conv in convs)
    x = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad():
        wanted, made = trained(x)[0], net.eval()(x)[0]
    assert (made - wanted).std() < 0.02 * wanted.std()
