"""Photos to masks as U-2-Net's own u2net_test.py makes them: python u2net_test.py PHOTO|FOLDER OUT WEIGHTS

The same steps, written anew: scikit-image reads and resizes in a process beside the net, the net computes all its
outputs on torch, and Pillow enlarges and writes the first, stretched, as RGB. It needs torch, scikit-image and Pillow.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import io, transform
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

SIDE = 320
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Block(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, dilation: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)


class RSU(nn.Module):
    """A small U whose output is added to its first feature map; dilated ones do without pooling."""

    def __init__(self, levels: int, dilated: bool, inputs: int, mid: int = 16, outputs: int = 64):
        super().__init__()
        self.dilated = dilated
        by_level = [2**level if dilated else 1 for level in range(levels)]
        self.stem = Block(inputs, outputs)
        self.encoder = nn.ModuleList(Block(mid if i else outputs, mid, d) for i, d in enumerate(by_level))
        self.bottom = Block(mid, mid, 2**levels if dilated else 2)
        self.decoder = nn.ModuleList(
            Block(2 * mid, mid if i else outputs, by_level[i]) for i in reversed(range(levels))
        )

    def forward(self, x: Tensor) -> Tensor:
        stem = x = self.stem(x)
        skips = []
        for i, block in enumerate(self.encoder):
            x = block(x if self.dilated or i == 0 else pool(x))
            skips.append(x)
        x = self.bottom(x)
        for block in self.decoder:
            skip = skips.pop()
            x = block(torch.cat((enlarge(x, skip), skip), 1))
        return stem + x


class U2NetP(nn.Module):
    """The lite net, with all seven outputs."""

    def __init__(self) -> None:
        super().__init__()
        kinds = [(6, False), (5, False), (4, False), (3, False), (3, True), (3, True)]
        self.encoder = nn.ModuleList(RSU(*kind, 64 if i else 3) for i, kind in enumerate(kinds))
        self.decoder = nn.ModuleList(RSU(*kind, 128) for kind in reversed(kinds[:5]))
        self.sides = nn.ModuleList(nn.Conv2d(64, 1, 3, padding=1) for _ in kinds)
        self.fuse = nn.Conv2d(6, 1, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        photo, skips = x, []
        for i, stage in enumerate(self.encoder):
            x = stage(pool(x) if i else x)
            skips.append(x)
        features = [skips.pop()]
        for stage in self.decoder:
            skip = skips.pop()
            features.append(stage(torch.cat((enlarge(features[-1], skip), skip), 1)))
        sides = [enlarge(side(x), photo) for side, x in zip(self.sides, reversed(features), strict=True)]
        return [torch.sigmoid(output) for output in (self.fuse(torch.cat(sides, 1)), *sides)]


def pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2, 2, ceil_mode=True)


def enlarge(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


class Photos(Dataset):
    """Each photo's place, its size, and what the net is given."""

    def __init__(self, paths: list[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, tuple[int, int], Tensor]:
        photo = io.imread(self.paths[index])
        photo = np.stack([photo] * 3, 2) if photo.ndim == 2 else photo[..., :3]
        small = transform.resize(photo, (SIDE, SIDE), mode="constant")
        small = (small / small.max() - MEAN) / DEVIATION
        return index, photo.shape[:2], torch.from_numpy(small.transpose(2, 0, 1)).float()


def main() -> None:
    photos, out = Path(sys.argv[1]), Path(sys.argv[2])
    paths = sorted(photos.iterdir()) if photos.is_dir() else [photos]
    out.mkdir(parents=True, exist_ok=True)
    net = U2NetP()
    net.load_state_dict(torch.load(sys.argv[3], weights_only=True))
    net.eval()
    with torch.inference_mode():
        for index, (height, width), small in DataLoader(Photos(paths), num_workers=1):
            mask = net(small)[0][0, 0]
            mask = (mask - mask.min()) / (mask.max() - mask.min())
            picture = Image.fromarray((mask * 255).numpy()).convert("RGB")
            picture = picture.resize((width.item(), height.item()), Image.Resampling.BILINEAR)
            picture.save(out / f"{paths[index].stem}.png")


if __name__ == "__main__":
    main()
