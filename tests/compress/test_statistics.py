"""BatchNorm's statistics for nets from ONNX files: measured on photos, and the net computes what it did."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.conftest import random_net, write_set
from u2slim.compress import init
from u2slim.compress.statistics import measure_statistics
from u2slim.data.unlabelled import Photos
from u2slim.errors import UserError
from u2slim.models import GroupedConv, Net, U2Net
from u2slim.models.normalise import Normalise
from u2slim.zoo import open_net
from u2slim.zoo.checkpoints import write_net
from u2slim.zoo.fetch import NETS
from u2slim.zoo.onnx_net import is_folded

SIDE, COUNT = 64, 5  # an odd count: photos go through in twos, and the last alone


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Photos:
    folder = tmp_path_factory.mktemp("photos")
    write_set(folder, "images", "masks", COUNT)
    return Photos.below(folder / "images", SIDE)


@pytest.fixture(scope="module")
def published_net() -> Net:
    """The published lite net, from its ONNX file."""
    return open_net("u2netp").net()


@pytest.fixture
def file_net(published_net) -> Net:
    """One to change."""
    return copy.deepcopy(published_net)


def masks(net: Net, input_N3HW: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return [logits.sigmoid() for logits in net(input_N3HW)]


def farthest(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max(float((one - other).abs().max()) for one, other in zip(ours, theirs, strict=True))


def norms(net: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]


def test_masks_stay_and_training_computes_what_evaluation_does(published_net, file_net, photos):
    input_N3HW = Normalise(file_net.preprocess)(photos.squares(COUNT, 0))
    before = masks(file_net, input_N3HW)
    assert is_folded(file_net)
    by_batch = masks(copy.deepcopy(published_net).train(), input_N3HW)
    assert farthest(by_batch, before) > 0.5, "without statistics it is another net in training"
    measure_statistics(file_net, input_N3HW)
    assert not is_folded(file_net) and not file_net.training
    assert farthest(masks(file_net, input_N3HW), before) <= 1e-4  # 1.2e-5 was measured
    assert farthest(masks(file_net.train(), input_N3HW), before) <= 2e-4  # 2.6e-5
    measure_statistics(file_net, input_N3HW[:2])
    assert file_net.training, "in the mode that it was in"


def test_statistics_are_those_of_what_reaches_a_layer(file_net, photos):
    input_N3HW = Normalise(file_net.preprocess)(photos.squares(COUNT, 0))
    conv, bn = file_net.encoder[0].stem.conv, file_net.encoder[0].stem.bn
    measure_statistics(file_net, input_N3HW)
    padded = np.pad(input_N3HW.double().numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    weight_OI33 = conv.weight.detach().double().numpy()
    made = np.einsum("nihwyx,oiyx->onhw", windows, weight_OI33, optimize=True).reshape(len(weight_OI33), -1)
    made += conv.bias.detach().double().numpy()[:, None]
    np.testing.assert_allclose(bn.running_mean.numpy(), made.mean(1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(bn.running_var.numpy(), made.var(1), rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(bn.weight.detach().numpy(), np.sqrt(made.var(1) + bn.eps), rtol=1e-4)
    np.testing.assert_array_equal(bn.bias.detach().numpy(), bn.running_mean.numpy())


def test_a_channel_that_never_changes_keeps_its_value(file_net, photos):
    with torch.no_grad():
        file_net.encoder[0].stem.conv.weight[3] = 0
    input_N3HW = Normalise(file_net.preprocess)(photos.squares(2, 0))
    before = masks(file_net, input_N3HW)
    measure_statistics(file_net, input_N3HW)
    assert file_net.encoder[0].stem.bn.running_var[3] < 1e-12
    assert farthest(masks(file_net, input_N3HW), before) <= 1e-4


def test_a_filled_net_has_statistics_if_there_are_photos(file_net, photos):
    input_N3HW = Normalise(file_net.preprocess)(photos.squares(COUNT, 0))
    expected = masks(file_net, input_N3HW)
    path = NETS / "u2netp.onnx"
    for fill, chosen in ((init.pretrained, photos), (init.checkpoint, photos), (init.pretrained, None)):
        net = fill(U2Net("lite"), path, photos=chosen)
        assert is_folded(net) == (chosen is None)
        assert farthest(masks(net.eval(), input_N3HW), expected) <= 1e-4
        if chosen:
            assert all(bn.running_var.ne(1 - bn.eps).all() and bn.running_mean.any() for bn in norms(net))
            assert farthest(masks(net.train(), input_N3HW), expected) <= 2e-4


def test_another_kind_of_net_gets_the_statistics_of_the_dense_one(photos, file_net):
    net = init.pretrained(U2Net("lite", GroupedConv), NETS / "u2netp.onnx", "project", photos=photos, count=COUNT)
    measure_statistics(file_net, Normalise(file_net.preprocess)(photos.squares(COUNT, 0)))
    for ours, theirs in zip(norms(net), norms(file_net), strict=True):
        torch.testing.assert_close(ours.running_mean, theirs.running_mean, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=1e-3, atol=1e-8)


def test_a_net_with_statistics_keeps_them(photos, tmp_path):
    trained = random_net()
    trained.config = {"_target_": "u2slim.models.U2Net", "width": "lite"}
    write_net(trained, SIDE, tmp_path / "trained.ckpt")
    assert not is_folded(trained)
    for fill in (init.pretrained, init.checkpoint):
        filled = fill(U2Net("lite"), tmp_path / "trained.ckpt", photos=photos).state_dict()
        assert all(torch.equal(tensor, filled[name]) for name, tensor in trained.state_dict().items())


def test_one_photo_that_leaves_one_pixel_before_a_batchnorm_is_a_sentence(tmp_path, published):
    write_set(tmp_path, "photos", "masks", 1)
    options = {"reestimate": True, "folder": tmp_path / "photos", "count": 1, "size": 32}
    with pytest.raises(UserError, match="a single pixel before a BatchNorm.*init.count"):
        init.pretrained(random_net(conv=GroupedConv), published, "mean", **options)
