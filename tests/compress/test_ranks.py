"""A rank for each convolution: chosen to lose least, written as a config, built as it says."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from tests.conftest import random_net, run, write_set
from u2slim.compress.ranks import DENSE, DENSE_LEFT, FACTOR_LEFT, Offer, choose, measured_or_kept, offers_of, weights
from u2slim.compress.reconstruct import FormErrors, errors_by_form
from u2slim.compress.sensitivity import metrics, square_root
from u2slim.errors import UserError
from u2slim.models import ISNet, LowRankConv, StandardConv, U2Net, build_net
from u2slim.models.least_squares import Goal
from u2slim.models.rounding import noise
from u2slim.models.rsu import ConvBNReLU
from u2slim.models.u2net import ranks_by_name

CONVOLUTIONS = 112


def convolutions(net: nn.Module) -> list[nn.Module]:
    return [block.conv for block in net.modules() if isinstance(block, ConvBNReLU)]


def form(conv: nn.Module) -> str:
    if isinstance(conv, StandardConv):
        return "0"
    narrowed = f"{len(conv.narrow.weight)}-" if conv.narrows else ""
    return narrowed + str(len(conv.reduce.weight))


def test_ranks_go_by_name_whatever_their_order_and_zero_is_dense():
    words = ["0", *(str(index % 16) if index % 3 else f"{index % 7 + 2}:5" for index in range(1, CONVOLUTIONS))]
    ranks = ranks_by_name(" ".join(words))
    assert ranks["encoder.0"]["stem"] == 0 and ranks["encoder.0"]["encoder.2"] == "5-5"
    turned = {stage: dict(reversed(forms.items())) for stage, forms in reversed(ranks.items())}
    for given in (ranks, turned):
        net = U2Net("lite", LowRankConv, ranks={"lite": given})
        assert [form(conv) for conv in convolutions(net)] == [word.replace(":", "-") for word in words]
        assert form(net.encoder[2].decoder[1].conv) == str(given["encoder.2"]["decoder.1"])
        assert net.name == "u2net-lite-ranked-lowrank"


def test_a_config_of_before_ranks_had_names_is_the_same_net():
    words = " ".join(["0", *["3"] * (CONVOLUTIONS - 1)])
    config = {"width": "lite", "conv": {"_target_": "u2slim.models.LowRankConv", "_partial_": True}}
    config |= {"_target_": "u2slim.models.U2Net", "ranks": {"lite": words}}
    net = build_net(config)
    assert [form(conv) for conv in convolutions(net)] == words.split()
    assert net.config["ranks"] == {"lite": ranks_by_name(words)}
    for count, sentence in ((CONVOLUTIONS - 1, "fewer numbers than"), (CONVOLUTIONS + 1, "more numbers than")):
        with pytest.raises(UserError, match=sentence):
            build_net(config | {"ranks": {"lite": " ".join(["1"] * count)}})


def ranks_with(stage: str, **forms: object) -> dict:
    """All dense but for what is given."""
    ranks = ranks_by_name(" ".join(["0"] * CONVOLUTIONS))
    return {"lite": ranks | {stage: ranks[stage] | {name.replace("_", "."): rank for name, rank in forms.items()}}}


@pytest.mark.parametrize(
    ("ranks", "sentence"),
    [
        ({"lite": {"encoder.0": {"stem": 0}}}, "does not say decoder.0.bottom"),
        (ranks_with("encoder.0", encoder_9=1), "says encoder.0.encoder.9, which the net does not have"),
        (ranks_with("encoder.0", encoder_0=-2), "encoder.0.encoder.0=-2: give a whole number from 0"),
        (ranks_with("encoder.0", encoder_0=65), "64 -> 16 channels cannot have rank 65"),
        (ranks_with("encoder.0", encoder_0="65-4"), "64 -> 16 channels cannot have rank 65-4"),
        (ranks_with("encoder.0", encoder_0="1-10"), "64 -> 16 channels cannot have rank 1-10"),
        (ranks_with("encoder.0", encoder_0="4-0"), "64 -> 16 channels cannot have rank 4-0"),
        (ranks_with("encoder.0", encoder_0="8-"), "=8-: give a whole number from 0, or two as in 24-10"),
        ({"full": {}}, "has no lite: .* u2slim.compress.ranks width=lite"),
    ],
)
def test_wrong_ranks_are_refused(ranks, sentence):
    with pytest.raises(UserError, match=sentence):
        U2Net("lite", LowRankConv, ranks=ranks)


def test_the_error_of_a_rank_is_that_of_the_weighted_principal_components_behind_batchnorm_and_relu():
    net, name = random_net(), "encoder.0.encoder.1"
    input_N3HW = torch.randn(4, 3, 32, 32)
    outputs = []
    handle = net.get_submodule(name).bn.register_forward_hook(lambda _, x, y: outputs.append(y.clone()))
    with torch.no_grad():
        net(input_N3HW)
    handle.remove()
    rows = outputs[0].permute(0, 2, 3, 1).flatten(0, 2).double().numpy()
    metric = metrics(net, {name: net.get_submodule(name).bn}, input_N3HW)[name].numpy()
    factor = np.linalg.cholesky(metric)  # |e @ factor|^2 is what an error e costs
    rows, unseen = np.split(rows, [3 * len(rows) // 4])  # the last photo says what it costs
    mean = rows.mean(0)
    _, _, directions = np.linalg.svd((rows - mean) @ factor, full_matrices=False)
    measured = errors_by_form(net, input_N3HW, names=[name])[name]
    errors = measured.errors
    assert (measured.inputs, measured.outputs, measured.places) == (16, 16, 16 * 16)
    assert [form for form in errors if form[0] is None] == [(None, rank) for rank in range(1, 17)]
    nothing = (((np.maximum(mean, 0) - np.maximum(unseen, 0)) @ factor) ** 2).sum(1).mean()
    assert measured.whole == pytest.approx(nothing, rel=1e-2)
    for rank in range(1, 17):
        projected = (unseen - mean) @ factor @ directions[:rank].T @ directions[:rank]
        made = mean + np.linalg.solve(factor.T, projected.T).T
        by_hand = (((np.maximum(made, 0) - np.maximum(unseen, 0)) @ factor) ** 2).sum(1).mean()
        assert errors[None, rank] == pytest.approx(by_hand, rel=1e-2, abs=1e-4 * nothing)


def test_the_error_of_a_narrowed_form_is_what_its_fit_comes_to():
    """Of the convolution alone; the fit has further turns to do better in."""
    net, name = random_net(), "decoder.4.decoder.2"
    smooth = torch.nn.functional.interpolate(torch.randn(4, 3, 12, 12), size=64, mode="bicubic")
    errors, block = errors_by_form(net, smooth, names=[name])[name].errors, net.get_submodule(name)
    inputs, outputs = [], []

    def keep(_: nn.Module, x: tuple[torch.Tensor], y: torch.Tensor) -> None:
        inputs.append(x[0].clone())
        outputs.append(y.clone())

    handle = block.conv.register_forward_hook(keep)
    with torch.no_grad():
        net(smooth)
    handle.remove()
    patches = torch.nn.functional.unfold(inputs[0], 3, padding=1).unflatten(1, (-1, 9))
    patches = patches.permute(0, 3, 2, 1).flatten(0, 1)
    behind = block.bn(outputs[0]).permute(0, 2, 3, 1).flatten(0, 2).detach()
    root = square_root(metrics(net, {name: block.bn}, smooth)[name])
    scale = (block.bn.weight / (block.bn.running_var + block.bn.eps).sqrt()).detach()
    shift = (block.bn.bias - block.bn.running_mean * scale).detach()
    weight = (block.conv.weight.permute(2, 3, 1, 0).flatten(0, 2) * scale).detach()
    prior = torch.cat((weight, (shift + block.conv.bias * scale).detach()[None])).double()
    goal = Goal(behind, scale, shift, True, root, prior)
    first, last = (slice(3 * len(patches) // 4), slice(3 * len(patches) // 4, None))  # the last photo judges
    for form in ((8, 4), (12, 10), (24, 14)):
        conv = LowRankConv(32, 16, narrow=form[0], rank=form[1])
        with torch.no_grad():
            conv.fit(patches[first], goal.at(first), 0.1, 0, True)
            windows = patches[last].permute(0, 2, 1).unflatten(2, (3, 3))
            made = conv(windows)[:, :, 1, 1] * goal.scale_O + goal.shift_O
        assert 0.5 * errors[form] < float(goal.at(last).error(made)) < 1.1 * errors[form]
        assert errors[None, form[1]] < 1.001 * errors[form]


def by_rank(errors) -> dict[tuple[None, int], float]:
    return {(None, rank): float(error) for rank, error in enumerate(errors, 1)}


def forms(errors: dict, share: float, channels: tuple[int, int] = (16, 16)) -> dict:
    """The forms chosen with that share of the dense weights, of convolutions that all have so many channels."""
    inputs, outputs = channels
    offers = {name: offers_of(FormErrors(inputs, outputs, 1, own, 1.0)) for name, own in errors.items()}
    return {name: offer.form for name, offer in choose(offers, share * 9 * inputs * outputs * len(errors)).items()}


def test_weights_go_where_they_lower_the_errors_most():
    # The outputs of `easy` lie on a line, those of `hard` fill their space.
    errors = {"easy": by_rank([0.01, *[0.0] * 15]), "hard": by_rank(np.linspace(0.9, 0, 16))}
    dense, each = 9 * 16 * 16, 9 * 16 + 16
    assert forms(errors, 0.5) == {"easy": (None, 1), "hard": (None, (dense - each) // each)}
    assert forms(errors, 1.0) == {"easy": (None, 2), "hard": DENSE}, "more weights for easy lower nothing"
    with pytest.raises(UserError, match=r"take 1.389 times the size .* Raise share"):
        forms(errors, 0.05)


def test_a_step_may_be_of_several_ranks_and_none_is_paid_for_nothing():
    dense, each = 9 * 16 * 16, 9 * 16 + 16
    two_more = 4.5 * each / (2 * dense)  # than rank 1 each
    # The first further rank lowers neither; two lower a by .25, b by .2.
    a, b = [0.9, 0.9, *[0.65] * 14], [0.4, 0.4, *[0.2] * 14]
    assert forms({"a": by_rank(a), "b": by_rank(b)}, two_more) == {"a": (None, 3), "b": (None, 1)}
    flat, rising = [0.9] * 16, [0.5, 0.6, 0.7, *[0.8] * 13]
    assert set(forms({"a": by_rank(flat), "b": by_rank(rising)}, two_more).values()) == {(None, 1)}


def test_inputs_are_narrowed_where_that_lowers_more_for_its_weights():
    channels = (64, 16)
    assert weights((8, 4), *channels) == 64 * 8 + 9 * 8 * 4 + 4 * 16
    assert weights((None, 4), *channels) == 9 * 64 * 4 + 4 * 16
    errors = {"a": by_rank([0.8, 0.4, 0.2, 0.1]) | {(8, 4): 0.3, (32, 4): 0.15}}
    dense = 9 * 64 * 16
    assert forms(errors, 870 / dense, channels) == {"a": (8, 4)}
    assert forms(errors, 1800 / dense, channels) == {"a": (None, 3)}


def test_a_form_in_few_bits_has_their_bytes_and_their_noise():
    measured = FormErrors(16, 16, 100, {(None, 4): 0.2}, 2.0)
    offers = {(offer.form, offer.bits): offer for offer in offers_of(measured, [4, 6], in_bytes=True)}
    low_rank = offers[(None, 4), 6]
    assert low_rank.size == 640 * 6 / 8 + 4 * (4 + 16) and low_rank.macs == 640 * 100
    assert low_rank.error == pytest.approx(0.2 + FACTOR_LEFT * 2 * noise(6) * 2.0)
    assert offers[DENSE, 4].error == pytest.approx(DENSE_LEFT * noise(4) * 2.0)


def test_bits_and_ranks_are_chosen_from_one_list():
    # Half the ranks lose nothing of `flat`, and `faint` hardly counts; `loud` needs all.
    errors = {"flat": {(None, 8): 0.0}, "loud": {(None, 8): 1.0}, "faint": {(None, 8): 1e-6}}
    whole = {"flat": 1.0, "loud": 1.0, "faint": 1e-5}
    offers = {
        name: offers_of(FormErrors(16, 16, 1, errors[name], whole[name]), [4, 8], in_bytes=True) for name in errors
    }
    chosen = {name: (offer.form, offer.bits) for name, offer in choose(offers, 4500).items()}
    assert chosen == {"flat": ((None, 8), 8), "loud": (DENSE, 8), "faint": ((None, 8), 4)}


def test_a_bound_of_multiplications_holds_beside_that_of_bytes():
    # Both lose alike; `fine` has many places, so that weights are dear there.
    def offers(places: int) -> list[Offer]:
        return [Offer((None, rank), None, 100 * rank, 100 * rank * places, 1 / rank) for rank in range(1, 11)]

    both = {"fine": offers(64), "coarse": offers(1)}
    free = choose(both, 1100)
    assert {offer.form[1] for offer in free.values()} == {5, 6}
    bound = choose(both, 1100, macs=64 * 300 + 1000)
    assert bound["fine"].form[1] == 3 and bound["coarse"].form[1] == 8
    with pytest.raises(UserError, match="times the multiplications"):
        choose(both, 1100, macs=1000)


def test_forms_of_a_config_may_say_bits():
    ranks = ranks_with("encoder.0", stem="0@8", encoder_0="8-10@5", encoder_1="7@4")
    net = U2Net("lite", LowRankConv, ranks=ranks)
    first, second, third, other = convolutions(net)[:4]
    assert isinstance(first, StandardConv) and first.bits == 8
    assert (form(second), second.bits, form(third), third.bits) == ("8-10", 5, "7", 4)
    assert other.bits is None
    with torch.device("meta"):
        isnet = ISNet(LowRankConv, ranks=ranks["lite"])
    assert form(isnet.encoder[0].encoder[0].conv) == "8-10" and isnet.name == "isnet-ranked-lowrank"


def test_the_command_writes_a_config_of_the_size_asked_for(tmp_path, published):
    write_set(tmp_path, "photos", "masks", 3)
    options = ("photos=photos", f"weights={published}", "size=32", "share=0.3", "config=sub/third.yaml")
    assert "111 convolutions, 0.34 M weights" in run("u2slim.compress.ranks", *options, cwd=tmp_path)
    net = build_net(OmegaConf.to_container(OmegaConf.load(tmp_path / "sub/third.yaml")))

    def weights(of: nn.Module) -> int:
        return sum(p.numel() for conv in convolutions(of)[1:] for p in conv.parameters() if p.ndim == 4)

    assert 0.29 < weights(net) / weights(U2Net("lite")) <= 0.3
    assert isinstance(convolutions(net)[0], StandardConv)
    assert "sub/third.yaml is there already" in run("u2slim.compress.ranks", *options, cwd=tmp_path, ok=False)
    assert "No photo or folder at photos=none" in run(
        "u2slim.compress.ranks", "photos=none", f"weights={published}", "config=x.yaml", cwd=tmp_path, ok=False
    )


@pytest.mark.slow
def test_the_command_writes_bits_for_a_file_of_so_many_megabytes(tmp_path, published):
    write_set(tmp_path, "photos", "masks", 4)
    options = ("photos=photos", f"weights={published}", "size=32", "megabytes=0.5", "gmac=0.3", "config=half.yaml")
    assert "0.2 GMAC" in run("u2slim.compress.ranks", *options, cwd=tmp_path)
    net = build_net(OmegaConf.to_container(OmegaConf.load(tmp_path / "half.yaml")))
    found = convolutions(net)
    assert {conv.bits for conv in found} <= {3, 4, 5, 6, 8} and found[0].bits
    packed = sum(p.numel() * conv.bits / 8 for conv in found for p in conv.parameters() if p.ndim == 4)
    assert 0.35e6 < packed < 0.47e6
    wrong = [*options[:3], "megabytes=0.5", "bits=[4,9]", "config=x.yaml"]
    assert "give a list of whole numbers from 2 to 8" in run("u2slim.compress.ranks", *wrong, cwd=tmp_path, ok=False)


@pytest.mark.slow
def test_what_was_measured_of_other_photos_or_another_net_is_not_taken(tmp_path):
    write_set(tmp_path, "photos", "masks", 2)
    write_set(tmp_path, "others", "masks", 2, first=5)
    net = random_net()
    options = {"measured": str(tmp_path / "m.json"), "photos": str(tmp_path / "photos"), "count": 1, "pixels": 20}
    first = measured_or_kept(OmegaConf.create(options), net, 32)
    assert measured_or_kept(OmegaConf.create(options), net, 32) == first
    for other, size, what in (({"pixels": 30}, 32, "pixels"), ({}, 48, "photos"), ({"photos": "others"}, 32, "photos")):
        changed = options | {key: str(tmp_path / value) if key == "photos" else value for key, value in other.items()}
        with pytest.raises(UserError, match=f"measured=.*m.json was measured with another {what}"):
            measured_or_kept(OmegaConf.create(changed), net, size)
    with torch.no_grad():
        next(net.parameters()).add_(1)
    with pytest.raises(UserError, match="was measured with another net"):
        measured_or_kept(OmegaConf.create(options), net, 32)
    (tmp_path / "m.json").write_text("[")
    with pytest.raises(UserError, match="m.json cannot be read"):
        measured_or_kept(OmegaConf.create(options), net, 32)
