"""The one place where a photo's pixels become a net's input in torch, and so in exported graphs."""

import torch
from torch import Tensor, nn

from u2slim.images.preprocess import U2NET_PREPROCESS, Preprocess


class Normalise(nn.Module):
    """What a net's `Preprocess` says of its pixels, as a module.

    Input RGB (B, 3, H, W), 0..255, any dtype; output float32 of the same shape.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, preprocess: Preprocess = U2NET_PREPROCESS):
        super().__init__()
        self.own_maximum = preprocess.own_maximum
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        x = image_BCHW.float()
        return ((x / _maximum(x) if self.own_maximum else x / 255) - self.mean) / self.std


def _maximum(x_BCHW: Tensor) -> Tensor:
    # Channel by channel, because OpenCV 4.14 computes ONNX's ReduceMax wrongly over three axes at once, and then as
    # three channels again, because 4.6 cannot divide an image by a single number that it has computed.
    # upstream: the first not reported as far as known; drop when OpenCV 4's ReduceMax over axes 1 to 3 is as 5.0's
    # upstream: https://github.com/opencv/opencv/issues/22356; drop when cpp/ asks for OpenCV > 4.6
    maxima = x_BCHW.amax((2, 3), keepdim=True)
    red, green, blue = maxima[:, 0:1], maxima[:, 1:2], maxima[:, 2:3]
    maximum = torch.cat([torch.maximum(torch.maximum(red, green), blue)] * 3, 1)
    # The addend keeps a black image finite and vanishes in float32 beside any maximum of 1..255.
    return maximum + 1e-6
