"""Initialisation by least squares, against formulas written out and nets whose answer is known."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from tests.conftest import random_net, run, write_set
from u2slim.compress import init
from u2slim.compress.reconstruct import reconstruct
from u2slim.compress.sensitivity import metrics, square_root
from u2slim.data.unlabelled import Photos
from u2slim.errors import UserError
from u2slim.models import ConvVariant, DepthwiseSeparableConv, GroupedConv, LowRankConv, StandardConv, U2Net
from u2slim.models.least_squares import Goal, Regression
from u2slim.models.normalise import Normalise
from u2slim.zoo import open_net

VARIANTS = {
    "grouped": GroupedConv,
    "shuffled": partial(GroupedConv, shuffle=True),
    "dwsep": DepthwiseSeparableConv,
    "lowrank": LowRankConv,
    "narrowed": partial(LowRankConv, narrow=2, rank=6),
}


def photos(count: int = 3, side: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    rough = torch.rand(count, 3, 8, 8, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(rough, size=side, mode="bicubic").clamp(0, 255)
    return Normalise()((smooth + 20 * torch.rand(smooth.shape, generator=generator)).clamp(0, 255))


def fused(net: torch.nn.Module, input_N3HW: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return net(input_N3HW)[0]


def distance(made: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, in standard deviations of what is wanted."""
    return float((made - wanted).abs().max() / wanted.std())


def representable(conv) -> tuple[U2Net, U2Net]:
    """A net of a variant, and the dense net that computes the same."""
    slim, dense = random_net(conv=conv), random_net()
    state = {name: tensor for name, tensor in slim.state_dict().items() if name in dense.state_dict()}
    for name, module in slim.named_modules():
        if isinstance(module, DepthwiseSeparableConv):
            pointwise = module.pointwise.weight[:, :, 0, 0]
            state[f"{name}.weight"] = torch.einsum("ihw,oi->oihw", module.depthwise.weight[:, 0], pointwise)
            state[f"{name}.bias"] = module.pointwise.bias + pointwise @ module.depthwise.bias
        elif isinstance(module, LowRankConv):
            expand = module.expand.weight[:, :, 0, 0]
            weight = torch.einsum("rihw,or->oihw", module.reduce.weight, expand)
            if module.narrows:
                weight = torch.einsum("onhw,ni->oihw", weight, module.narrow.weight[:, :, 0, 0])
            state[f"{name}.weight"] = weight
            state[f"{name}.bias"] = module.expand.bias
        elif isinstance(module, GroupedConv):
            weight = torch.zeros(module.out_channels, module.in_channels, 3, 3)
            for group in range(module.groups):
                weight[module.outputs_of(group), module.inputs_of(group)] = module.weight[module.outputs_of(group)]
            state[f"{name}.weight"] = weight
    dense.load_state_dict(state)
    return slim, dense


def test_ridge_regression_is_the_normal_equations():
    rng = np.random.default_rng(0)
    rows, target = rng.normal(size=(200, 5)), rng.normal(size=(200, 3))
    with_constant = np.c_[rows, np.ones(200)]
    gram = with_constant.T @ with_constant
    penalty = np.diag([0.1 * np.diag(gram)[:5].mean()] * 5 + [0])
    by_hand = np.linalg.solve(gram + penalty, with_constant.T @ target)
    found = Regression(torch.tensor(rows, dtype=torch.float32), ridge=0.1).solve(torch.tensor(target).float())
    np.testing.assert_allclose(found, by_hand, rtol=1e-4, atol=1e-5)


def test_behind_relu_a_fit_need_not_be_right_where_all_is_zero():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4000, 6, generator=generator)
    exact = rows @ torch.randn(6, 2, generator=generator) - 0.5
    target = torch.where(exact > 0, exact, exact * 7 - 1)  # what lies below zero is no line any more
    goal, regression = Goal(target, torch.ones(2), torch.zeros(2)), Regression(rows, ridge=1e-9)

    def error(rounds):
        return float((regression.towards(goal, rounds)[1].relu() - target.relu()).square().mean())

    errors = [error(rounds) for rounds in (0, 5, 20, 100)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3 * errors[0]


@pytest.mark.parametrize(("variant", "order"), [*((name, "sequential") for name in VARIANTS), ("dwsep", "independent")])
def test_what_a_variant_can_express_is_found_again(variant, order):
    slim, dense = representable(VARIANTS[variant])
    input_N3HW = photos()
    wanted = fused(dense, input_N3HW)
    assert distance(fused(slim, input_N3HW), wanted) < 1e-3
    net = U2Net("lite", VARIANTS[variant]).eval()
    init.transfer(dense, net, "project")
    dense_shapes = {name: parameter.shape for name, parameter in dense.named_parameters()}
    for name, parameter in net.named_parameters():
        is_start = name.endswith("depthwise.weight")
        if ".conv." in name and dense_shapes.get(name) != parameter.shape and not is_start:
            parameter.data.zero_()
    assert distance(fused(net, input_N3HW), wanted) > (0.1 if variant == "narrowed" else 0.5)
    reconstruct(dense, net, input_N3HW, ridge=1e-9, rounds=1, order=order)
    assert distance(fused(net, input_N3HW), wanted) < 0.02


class Small(nn.Module):
    """A layer, ReLU in its place, and a head for `classes` logits."""

    def __init__(self, classes: int):
        super().__init__()
        self.layer, self.relu = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True)
        self.head = nn.Conv2d(4, classes, 3, stride=2, padding=1)

    def forward(self, x_B3HW: torch.Tensor) -> list[torch.Tensor]:
        return [self.head(self.relu(self.layer(x_B3HW)))]


@pytest.mark.parametrize("classes", [1, 3])
def test_errors_count_by_what_they_do_to_the_output(classes):
    torch.manual_seed(0)
    net, input_N3HW = Small(classes), photos(2, 8)
    maps_NCHW = net.relu(net.layer(input_N3HW)).detach()
    expected = torch.zeros(4, 4)
    for map_CHW in maps_NCHW:
        logits = net.head(map_CHW[None])[0] / 4
        chance = logits.sigmoid() if classes == 1 else logits.softmax(0)
        # (classes, 4, 4, 4, 8, 8)
        jacobian = torch.autograd.functional.jacobian(lambda x: net.head(x[None])[0], map_CHW)
        weight = (chance * (1 - chance))[..., None, None, None]
        rows = (jacobian * weight.sqrt()).detach()
        expected += torch.einsum("qabchw,qabdhw->cd", rows, rows) / logits[0].numel() / 2
    found = metrics(net, {"layer": net.layer}, input_N3HW, draws=3000)["layer"].float()
    assert float((found - expected).norm() / expected.norm()) < 0.03
    torch.testing.assert_close(square_root(found) @ square_root(found), found)


def test_what_the_output_does_not_depend_on_is_what_a_low_rank_gives_up():
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(3000, 9, 2, generator=generator)
    target = patches.flatten(1) @ torch.randn(18, 4, generator=generator)
    root = torch.diag(torch.tensor([1.0, 0.03, 1.0, 0.03])).double()
    errors = {}
    for name, weighted in {"alike": None, "weighted": root}.items():
        conv = LowRankConv(2, 4, rank=2)
        with torch.no_grad():
            made = conv.fit(patches, Goal(target, torch.ones(4), torch.zeros(4), False, weighted), 0, 3, True)
        errors[name] = (made - target).square().mean(0).sqrt() / target.std(0)
    assert errors["weighted"][[0, 2]].max() < 0.05 < errors["alike"][[0, 2]].max()
    assert errors["weighted"][[1, 3]].min() > 0.3
    # Of a depthwise convolution, kernels serve all outputs and pointwise weights one each.
    conv = DepthwiseSeparableConv(2, 4)
    alike = Goal(target, torch.ones(4), torch.zeros(4), False)
    by_cost = Goal(target, torch.ones(4), torch.zeros(4), False, root)
    with torch.no_grad():
        costs = [float(by_cost.error(copy.deepcopy(conv).fit(patches, goal, 0, 12, True))) for goal in (alike, by_cost)]
    assert costs[1] < 0.9 * costs[0]


def test_both_factors_of_a_low_rank_are_of_a_size_at_which_they_learn():
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(3000, 9, 8, generator=generator)
    target = patches.flatten(1) @ torch.randn(72, 6, generator=generator)
    conv = LowRankConv(8, 6, rank=6)
    goal = Goal(target, torch.ones(6), torch.zeros(6), False, 1e-4 * torch.eye(6).double())
    with torch.no_grad():
        conv.fit(patches, goal, 0, 0, True)
        torch.testing.assert_close((patches.flatten(1) @ _rows(conv.reduce.weight)).std(0), torch.ones(6))
        # 1e-3 is Adam's usual step.
        for factor in (conv.reduce, conv.expand):
            factor.weight += 1e-3 * torch.randn(factor.weight.shape, generator=generator).sign()
        made = patches.flatten(1) @ _rows(conv.reduce.weight) @ conv.expand.weight[:, :, 0, 0].T + conv.expand.bias
    assert float((made - target).std() / target.std()) < 0.02


def test_a_narrowing_is_the_best_of_its_kind_for_the_inputs_at_hand():
    """Against gradient descent over all three factors from the fit, which must not find anything better."""
    generator = torch.Generator().manual_seed(0)
    # Neighbouring taps alike, as in photos, and channels of unlike sizes.
    smooth = torch.randn(4000, 1, 6, generator=generator) + 0.5 * torch.randn(4000, 9, 6, generator=generator)
    patches = smooth * torch.tensor([3.0, 1.0, 1.0, 0.5, 0.5, 0.2])
    weight = torch.randn(54, 4, generator=generator)
    target = patches.flatten(1) @ weight
    root = torch.diag(torch.tensor([1.0, 0.3, 1.0, 0.3])).double()
    goal = Goal(target, torch.ones(4), torch.zeros(4), False, root)
    conv = LowRankConv(6, 4, rank=3, narrow=3)
    with torch.no_grad():
        made = conv.fit(patches, goal, 0, 0, True)
        found = float(goal.error(made))
        composed = (patches @ conv.narrow.weight[:, :, 0, 0].T).flatten(1) @ _rows(conv.reduce.weight)
        composed = composed @ conv.expand.weight[:, :, 0, 0].T + conv.expand.bias
        torch.testing.assert_close(composed, made, rtol=1e-3, atol=1e-3 * float(made.std()))
        between = (patches @ conv.narrow.weight[:, :, 0, 0].T).flatten(0, 1)
        torch.testing.assert_close(between.std(0), torch.ones(3), rtol=0.05, atol=0)
    factors = [p for p in conv.parameters() if p.requires_grad]
    optimizer = torch.optim.LBFGS(factors, max_iter=200, line_search_fn="strong_wolfe")

    def error() -> torch.Tensor:
        optimizer.zero_grad()
        inner = torch.einsum("pki,ni,rnk->pr", patches, conv.narrow.weight[:, :, 0, 0], conv.reduce.weight.flatten(2))
        loss = goal.error(inner @ conv.expand.weight[:, :, 0, 0].T + conv.expand.bias)
        loss.backward()
        return loss

    optimizer.step(error)
    assert found < 1.02 * float(error())


def _rows(weight_OI33: torch.Tensor) -> torch.Tensor:
    """As patches (P, 9, I) have them, flattened: (9 I, O)."""
    return weight_OI33.permute(2, 3, 1, 0).flatten(0, 2)


def test_depthwise_and_pointwise_weights_are_found_from_near_by():
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(3000, 9, 5, generator=generator)
    kernels, pointwise = torch.randn(9, 5, generator=generator), torch.randn(5, 8, generator=generator)
    target = (patches * kernels).sum(1) @ pointwise + 0.3
    conv = DepthwiseSeparableConv(5, 8)
    start = torch.nn.functional.normalize(kernels, dim=0) + 0.2 * torch.randn(9, 5, generator=generator)
    conv.depthwise.weight.data = start.T.reshape(5, 1, 3, 3).clone()
    goal = Goal(target, torch.full((8,), 2.0), torch.full((8,), -1.0), relu=False)
    with torch.no_grad():
        errors = [float((conv.fit(patches, goal, 0, rounds, True) - target).square().mean()) for rounds in (0, 20)]
    assert errors[1] < 1e-6 * errors[0]
    # The convolution itself, whose BatchNorm makes 2x - 1 of what it yields.
    found = torch.einsum("ihw,oi->oihw", conv.depthwise.weight[:, 0], conv.pointwise.weight[:, :, 0, 0])
    expected = torch.einsum("ki,io->oik", kernels, pointwise).reshape(8, 5, 3, 3) / 2
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(conv.pointwise.bias.data, torch.full((8,), (0.3 + 1) / 2), rtol=1e-3, atol=1e-3)


def test_training_mode_computes_what_evaluation_mode_does():
    dense, net, input_N3HW = random_net(), U2Net("lite", DepthwiseSeparableConv), photos()
    init.transfer(dense, net, "project")
    reconstruct(dense, net, input_N3HW, rounds=1)
    evaluated = fused(net.eval(), input_N3HW)
    assert distance(fused(net.train(), input_N3HW), evaluated) < 1e-3


def test_a_channel_that_the_photos_leave_silent_can_still_learn():
    conv = DepthwiseSeparableConv(3, 2)
    kernels = conv.depthwise.weight[1].clone()
    patches = torch.rand(500, 9, 3, generator=torch.Generator().manual_seed(0))
    patches[:, :, 1] = 0
    target = patches.sum((1, 2))[:, None] * torch.tensor([1.0, -1.0])
    with torch.no_grad():
        made = conv.fit(patches, Goal(target, torch.ones(2), torch.zeros(2), relu=False), 1e-3, 3, alternate=True)
    torch.testing.assert_close(made, target, rtol=0, atol=0.5)
    assert torch.equal(conv.depthwise.weight[1], kernels) and kernels.any()


def test_the_photos_and_the_seed_decide_every_bit(tmp_path, published):
    write_set(tmp_path, "photos", "masks", 6)
    states = []
    for seed in (0, 0, 1):
        net = U2Net("lite", GroupedConv)
        settings = {"lstsq": {"rounds": 1, "pixels": 500}, "folder": tmp_path / "photos", "size": 48, "count": 3}
        init.pretrained(net, weights=published, seed=seed, **settings)
        states.append(torch.cat([tensor.flatten() for tensor in net.state_dict().values()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_reestimated_statistics_are_those_of_the_photos(tmp_path, published):
    write_set(tmp_path, "photos", "masks", 2)
    net = U2Net("lite", GroupedConv)
    init.pretrained(net, published, "mean", reestimate=True, photos=Photos.below(tmp_path / "photos", 64))
    seen = []
    hook = net.encoder[0].stem.conv.register_forward_hook(lambda _, x, y: seen.append(y))
    fused(net, Normalise()(Photos.below(tmp_path / "photos", 64).squares(2, 0)))
    hook.remove()
    mean, variance = seen[0].mean((0, 2, 3)), seen[0].var((0, 2, 3))
    torch.testing.assert_close(net.encoder[0].stem.bn.running_mean, mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(net.encoder[0].stem.bn.running_var, variance, rtol=1e-3, atol=1e-4)
    assert math.isfinite(float(fused(net.eval(), photos(1)).sum()))


def test_what_is_missing_or_wrong_is_named(tmp_path, published):
    net = U2Net("lite", GroupedConv)
    with pytest.raises(UserError, match="init.folder=DIR"):
        init.pretrained(net, weights=published)
    with pytest.raises(UserError, match="init.folder=.*nowhere"):
        init.pretrained(net, weights=published, folder=tmp_path / "nowhere")
    with pytest.raises(UserError, match="init.count=0"):
        init.pretrained(net, weights=published, count=0)
    for setting, message in {
        ("order", "backwards"): "init.lstsq.order=backwards.*sequential, independent",
        ("pixels", 0): "init.lstsq.pixels=0",
        ("rounds", -1): "init.lstsq.rounds=-1",
        ("ridge", -0.1): "init.lstsq.ridge=-0.1",
    }.items():
        with pytest.raises(UserError, match=message):
            init.pretrained(net, weights=published, lstsq=dict([setting]))


def test_a_net_without_anything_to_refill_stays_as_it_is(published):
    net = U2Net("lite", partial(GroupedConv, groups=1))
    init.pretrained(net, published, photos=Photos([], 64), method="project")
    assert reconstruct(random_net(), net, photos(1)) == {}


def test_with_fewer_positions_than_unknowns_what_nothing_tells_stays_dense():
    generator = torch.Generator().manual_seed(0)
    dense = torch.nn.Conv2d(8, 4, 3)
    weight_CO = dense.weight.detach().permute(2, 3, 1, 0).flatten(0, 2)
    prior = torch.cat((weight_CO, dense.bias.detach()[None])).double()
    patches, unseen = (torch.randn(50, 9, 8, generator=generator) for _ in range(2))

    def error(prior_CO: torch.Tensor | None) -> float:
        target = (patches.flatten(1) @ weight_CO + dense.bias).detach()
        goal = Goal(target, torch.ones(4), torch.zeros(4), relu=False, prior_CO=prior_CO)
        conv = StandardConv(8, 4)
        with torch.no_grad():
            conv.fit(patches, goal, 0.1, 0, True)
            made = unseen.flatten(1) @ conv.weight.permute(2, 3, 1, 0).flatten(0, 2) + conv.bias
            return float((made - unseen.flatten(1) @ weight_CO - dense.bias).square().mean())

    assert error(prior) < 1e-6 < 1e-2 < error(None)


def test_a_fit_that_was_killed_goes_on_to_the_same_weights(tmp_path):
    def filled(keep, bits=6, **settings) -> dict[str, torch.Tensor]:
        dense, net = random_net(), U2Net("lite", partial(LowRankConv, bits=bits)).eval()
        init.transfer(dense, net, "project")
        reconstruct(dense, net, photos(), pixels=500, rounds=1, keep=keep, **settings)
        return net.state_dict()

    whole = filled(None)
    first = filled(tmp_path / "kept")
    kept = sorted((tmp_path / "kept").glob("*.pt"), key=lambda path: path.stat().st_mtime_ns)
    assert len(kept) == 112
    for path in kept[60:]:
        path.unlink()
    again = filled(tmp_path / "kept")
    for name, tensor in whole.items():
        assert torch.equal(first[name], tensor) and torch.equal(again[name], tensor), name
    for other in ({"ridge": 0.5}, {"bits": 5}):
        with pytest.raises(UserError, match="holds convolutions of another net, photos or settings"):
            filled(tmp_path / "kept", **other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "bits"),
    [
        ("model=standard model.width=lite model.conv.bits=5", 5),
        ("model=lite_half +model.conv.bits=6", 6),
    ],
)
def test_a_config_may_ask_for_bits_of_all_convolutions(tmp_path, published, settings, bits):
    write_set(tmp_path, "photos", "masks", 2)
    run(
        "export.py",
        *settings.split(),
        *("init=pretrained", f"init.weights={published}", "init.folder=photos", "init.lstsq.pixels=200"),
        *("init.lstsq.rounds=1", "size=64", "init.size=64", "export.precision=packed", "export.output=net.onnx"),
        *("export.count=1", "export.weights=net.ckpt"),
        cwd=tmp_path,
    )
    net = open_net(tmp_path / "net.ckpt").net()
    convs = [conv for conv in net.modules() if isinstance(conv, ConvVariant)]
    assert {conv.bits for conv in convs} == {bits}
    weights = sum(p.numel() for conv in convs for p in conv.parameters() if p.ndim == 4)
    least = weights * bits / 8
    assert least < (tmp_path / "net.onnx").stat().st_size < least + 130_000
