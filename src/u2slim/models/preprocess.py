"""The one place where a photo's pixels become a net's input."""

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Preprocess(nn.Module):
    """U2-Net's input: each image divided by its own maximum, then ImageNet mean and standard deviation.

    Input RGB (B, 3, H, W), 0..255, any dtype; output float32 of the same shape.
    """

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        x = image_BCHW.float()
        # Channel by channel, because OpenCV 4.14 computes ONNX's ReduceMax wrongly over three axes at once, and then as
        # three channels again, because 4.6 cannot divide an image by a single number that it has computed.
        # upstream: the first not reported as far as known; drop when OpenCV 4's ReduceMax over axes 1 to 3 is as 5.0's
        # upstream: https://github.com/opencv/opencv/issues/22356; drop when cpp/ asks for OpenCV > 4.6
        maxima = x.amax((2, 3), keepdim=True)
        red, green, blue = maxima[:, 0:1], maxima[:, 1:2], maxima[:, 2:3]
        maximum = torch.cat([torch.maximum(torch.maximum(red, green), blue)] * 3, 1)
        # The addend keeps a black image finite and vanishes in float32 beside any maximum of 1..255.
        x = x / (maximum + 1e-6)
        return (x - self.mean) / self.std
