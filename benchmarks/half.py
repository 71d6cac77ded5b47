"""What breaks a net in half precision: PyTorch's own half kernels, one condition at a time, beside float32.

    python -m benchmarks.half --photos DIR [--weights u2netp.pth] [--random full] [--count 8]

Each row is the published lite net, computed wholly in float16: weights, activations and what BatchNorm divides by.
With --random, a net of random weights instead, its BatchNorm measured on the photos.
Columns: its largest activation, photos whose mask is not finite (cast to 8 bits, black), and of the others the mask's
largest difference from float32's and the IoU of both. docs/lab/fp16.md draws the conclusions.
"""

import argparse
import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.optim.swa_utils import update_bn

from u2slim.data.unlabelled import Photos
from u2slim.models.normalise import Normalise
from u2slim.models.rsu import RSU, ConvBNReLU
from u2slim.models.u2net import U2Net
from u2slim.zoo import open_net

SIDE = 320


def folded(net: nn.Module) -> nn.Module:
    """BatchNorm folded into the convolution before it, as an exported graph has it."""
    for block in net.modules():
        if isinstance(block, ConvBNReLU):
            block.conv, block.bn = fuse_conv_bn_eval(block.conv, block.bn), nn.Identity()
    return net


def scaled(factor: float) -> Callable[[nn.Module], nn.Module]:
    """The same function in exact arithmetic: each block's deepest map times `factor`, its reader's weights divided."""

    def scale(net: nn.Module) -> nn.Module:
        for block in net.modules():
            if isinstance(block, RSU):
                norm = block.bottom.bn
                norm.weight.mul_(factor)
                norm.bias.mul_(factor)
                block.decoder[0].conv.weight[:, : norm.num_features].div_(factor)
        return net

    return scale


def wide_before_batchnorm(factor: float) -> Callable[[nn.Module], nn.Module]:
    """The same function: each block's deepest convolution times `factor`, which its BatchNorm's statistics undo."""

    def widen(net: nn.Module) -> nn.Module:
        for block in net.modules():
            if isinstance(block, RSU):
                conv, norm = block.bottom.conv, block.bottom.bn
                conv.weight.mul_(factor)
                conv.bias.mul_(factor)
                norm.running_mean.mul_(factor)
                norm.running_var.copy_((norm.running_var + norm.eps) * factor**2 - norm.eps)
        return net

    return widen


def same(net: nn.Module) -> nn.Module:
    return net


def random_net(width: str, photos: Tensor) -> nn.Module:
    torch.manual_seed(0)
    net = U2Net(width)
    update_bn(list(photos.split(2)), net)
    return net.eval()


# Name, what is done to the net, and what the input is multiplied by after normalisation.
CONDITIONS = (
    ("as it is", same, 1.0),
    ("BatchNorm folded", folded, 1.0),
    ("input 100 times too large", same, 100.0),
    ("deepest maps x 10", scaled(10.0), 1.0),
    ("deepest maps x 1,000", scaled(1e3), 1.0),
    ("deepest maps x 100,000", scaled(1e5), 1.0),
    ("before BatchNorm x 100", wide_before_batchnorm(100.0), 1.0),
    ("before BatchNorm x 1,000", wide_before_batchnorm(1e3), 1.0),
    ("before BatchNorm x 1,000, then folded", lambda net: folded(wide_before_batchnorm(1e3)(net)), 1.0),
)


def largest_activation(net: nn.Module, image_B3HW: Tensor) -> tuple[Tensor, float]:
    """The fused probability, and the largest magnitude that any module returned."""
    largest = []

    def note(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        largest.append(float(output.float().abs().nan_to_num(torch.inf).max()))

    watched = [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d | RSU)]
    hooks = [module.register_forward_hook(note) for module in watched]
    mask = net(image_B3HW)[0].sigmoid().float()
    for hook in hooks:
        hook.remove()
    return mask, max(largest)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--photos", required=True)
    parser.add_argument(
        "--weights", default="u2netp", help="a net by name, or a file; by default the published lite net"
    )
    parser.add_argument("--random", choices=("lite", "full"), help="use random weights in a net of this width")
    parser.add_argument("--count", type=int, default=8)
    options = parser.parse_args()
    photos = Normalise()(Photos.below(options.photos, SIDE).squares(options.count, 0))
    original = random_net(options.random, photos) if options.random else open_net(options.weights).net()

    variances = torch.cat([norm.running_var for norm in original.modules() if isinstance(norm, nn.BatchNorm2d)])
    lost = int((variances.half() == 0).sum())
    print(f"BatchNorm's variances: {variances.min():.1e} to {variances.max():.1f}, {lost} are 0 in float16.")
    print("| net and input | largest activation | not finite | largest difference | mask IoU |\n|---|---|---|---|---|")
    for name, change, gain in CONDITIONS:
        net = change(copy.deepcopy(original))
        half = copy.deepcopy(net).half()
        broken, worst, both, either, largest = 0, 0.0, 0, 0, 0.0
        for photo in photos.split(1):
            expected = net(photo * gain)[0].sigmoid()
            mask, activation = largest_activation(half, (photo * gain).half())
            largest = max(largest, activation)
            if not mask.isfinite().all():
                broken += 1
                continue
            worst = max(worst, float((mask - expected).abs().max()))
            both += int(((mask > 0.5) & (expected > 0.5)).sum())
            either += int(((mask > 0.5) | (expected > 0.5)).sum())
        iou = f"{both / either:.4f}" if either else ""
        print(f"| {name} | {largest:.3g} | {broken} of {len(photos)} | {worst:.3f} | {iou} |", flush=True)


if __name__ == "__main__":
    main()
