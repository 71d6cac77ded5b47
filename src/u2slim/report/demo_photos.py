"""The photos of `make demo`, from packages that are installed anyway: python -m u2slim.report.demo_photos out=DIR."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from u2slim.cli import research_command
from u2slim.data.sample import render
from u2slim.errors import UserError
from u2slim.images.read import read_image
from u2slim.images.write import write_image

# To cut out: free of rights (NASA, Stefan van der Walt, Rachel Michetti, SpaceX), says scikit-image's documentation.
SHOWN = ("astronaut", "chelsea", "coffee", "rocket")
# To learn from, and none of those.
LEARNT_FROM = {
    "skimage": ("camera.png", "coins.png", "hubble_deep_field.jpg", "moon.png", "motorcycle_left.png", "retina.jpg"),
    "sklearn": ("china.jpg", "flower.jpg"),
    "matplotlib": ("grace_hopper.jpg",),
}
_FOLDERS = {"skimage": "data", "sklearn": "datasets/images", "matplotlib": "mpl-data/sample_data"}
CROPS = 3  # of each photo
GENERATED = 9
_SEED = 100  # so that they are none of the sample set


@research_command("demo_photos")
def main(cfg: DictConfig) -> None:
    if cfg.out is None:
        raise UserError("Say where the photos go: out=FOLDER.")
    folder = Path(cfg.out)
    for name, photo in shown().items():
        write_image(folder / "shown" / f"{name}.png", photo)
    learnt = learnt_from(cfg.seed)
    for name, photo in learnt.items():
        write_image(folder / "learnt_from" / f"{name}.png", photo)
    print(f"{len(SHOWN)} photographs to cut out and {len(learnt)} others to learn from: {folder}")


def shown() -> dict[str, np.ndarray]:
    """Four photographs by name, RGB (H, W, 3) uint8."""
    return {path.stem: read_image(path) for name in SHOWN for path in _folder("skimage").glob(f"{name}.*")}


def learnt_from(seed: int) -> dict[str, np.ndarray]:
    """Other photos by name: photographs, crops of them of half the sides and more, and generated ones."""
    generator = np.random.default_rng(seed)
    photos = {}
    for package, names in LEARNT_FROM.items():
        for name in names:
            photo = read_image(_folder(package) / name)
            photos[Path(name).stem] = photo
            for number in range(CROPS):
                photos[f"{Path(name).stem}-{number}"] = _crop(photo, generator)
    return photos | {f"generated-{index}": render(_SEED + seed, index)[0] for index in range(GENERATED)}


def _crop(photo: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    height, width = (int(side * generator.uniform(0.5, 0.9)) for side in photo.shape[:2])
    top, left = (generator.integers(side - part + 1) for side, part in zip(photo.shape, (height, width), strict=False))
    crop = photo[top : top + height, left : left + width]
    return np.ascontiguousarray(crop[:, :: generator.choice((-1, 1))])


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise UserError(f"The demo's photos come with {package}, which is not installed: make setup.")
    return Path(spec.origin).parent / _FOLDERS[package]


if __name__ == "__main__":
    main()
