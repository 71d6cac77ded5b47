"""PSPNet (Zhao et al., CVPR 2017, arXiv 1612.01105)."""

import torch
from torch import Tensor, nn

from u2slim.errors import UserError
from u2slim.models.net import ConvFactory
from u2slim.models.pyramid import POOLED_SIDES, pooled
from u2slim.models.resize import size_of, upsample
from u2slim.models.resnet import Classifier, ConvBN, SemanticNet


class PSPNet(SemanticNet):
    """Pyramid pooling over a dilated ResNet's features, and an auxiliary output from its layer3.

    Input and arguments as `SemanticNet` says. Output: `[main, auxiliary]`, with `upsampled=False` both at 1/8 of the
    input's size (rounded up).

    Raises:
        UserError: it trains on a single image, whose mean over all pixels BatchNorm cannot normalise.
    """

    outputs = ("main", "auxiliary1")

    def build(self, conv: ConvFactory) -> None:
        third, deep = self.backbone.channels[2:]
        quarter = max(1, deep // 4)
        self.pyramid = nn.ModuleList(ConvBN(nn.Conv2d(deep, quarter, 1, bias=False), quarter) for _ in POOLED_SIDES)
        joined = deep + len(POOLED_SIDES) * quarter
        self.head = ConvBN(conv(joined, quarter, dilation=1, stride=1, bias=False), quarter)
        self.dropout = nn.Dropout2d(0.1)
        self.classify = Classifier(quarter, self.classes)
        self.auxiliary_head = ConvBN(
            conv(third, max(1, third // 4), dilation=1, stride=1, bias=False), max(1, third // 4)
        )
        self.auxiliary = Classifier(max(1, third // 4), self.classes)

    def forward(self, x_BCHW: Tensor, upsampled: bool = True) -> list[Tensor]:
        norms = [module for module in self.pyramid[0].modules() if isinstance(module, nn.BatchNorm2d)]
        if any(norm.training for norm in norms) and len(x_BCHW) == 1:  # a synchronised one is no BatchNorm2d
            raise UserError(
                "PSPNet normalises each image's mean over the batch: each process needs two images. Raise "
                "data.batch_size, or keep BatchNorm's statistics with task.freeze_batchnorm=true."
            )
        *_, third, deep = self.backbone(x_BCHW)
        parts = [
            upsample(reduce(pooled(deep, bins)), size_of(deep))
            for reduce, bins in zip(self.pyramid, POOLED_SIDES, strict=True)
        ]
        main = self.classify(self.dropout(self.head(torch.cat((deep, *parts), 1))))
        outputs = [main, self.auxiliary(self.dropout(self.auxiliary_head(third)))]
        size = size_of(x_BCHW)
        return [upsample(output, size) for output in outputs] if upsampled else outputs
