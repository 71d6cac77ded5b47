"""One export: from a composed config to files that are proved to agree with their net."""

import logging
from itertools import product
from pathlib import Path

import numpy as np
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.table import Table

from u2slim.cli import plain, warn_idle
from u2slim.data.datamodule import OF_TRAINING
from u2slim.data.pairs import Pair
from u2slim.data.sample import render
from u2slim.data.semantic_datamodule import SemanticDataModule
from u2slim.errors import UserError
from u2slim.export.calibration import Gate
from u2slim.export.deploy import Deployment
from u2slim.export.parity import ParityRow
from u2slim.export.precisions import PRECISIONS
from u2slim.export.targets import TARGETS
from u2slim.files import user_path
from u2slim.images.photos import find_photos
from u2slim.images.read import read_image
from u2slim.models import Net
from u2slim.runtime.batch_axis import batch_setting
from u2slim.runtime.onnx_writer import INPUTS
from u2slim.runtime.phone_files import net_bytes
from u2slim.sizes import sides
from u2slim.terminal import print_whole
from u2slim.zoo.checkpoints import load_net, origin, write_net

log = logging.getLogger(__name__)


def export(cfg: DictConfig, folder: Path) -> float:
    """Write what conf/export.yaml composes, and print how each file compares with torch in each runtime.

    Returns:
        The largest difference from torch of any file in any runtime that runs it.

    Raises:
        UserError: a setting is wrong, the net is missing, or a file does not agree, which is then not left there.
    """
    settings = cfg.export
    # All that can be refused is refused before the net is made: least squares take minutes, or an hour.
    batch = batch_setting(settings.batch)
    kinds = kinds_of_files(settings)
    for target in dict.fromkeys(target for target, *_ in kinds):
        TARGETS[target].check_tools(settings.onnx2tf)
    warn_of_idle(cfg, {precision for *_, precision in kinds})
    images, photos = photos_of(settings, "images", settings.count), []
    if any(PRECISIONS[precision].photos for *_, precision in kinds):
        photos = photos_of(settings, "calibration", settings.calibrate_on)
        if not settings.calibration:
            log.warning("generated images tell the activations' range; export.calibration=FOLDER of photos is better")
    net = load_net(cfg.checkpoint, plain(cfg.model), instantiate(cfg.init), cfg.size)
    size = net.preprocess.size
    paths = files(settings, kinds, net.name, folder)
    extreme = extremes()
    deployment = Deployment(
        net,
        size,
        images=images + extreme,
        photos=photos,
        gate=Gate(pairs_of(cfg, net), images, settings.max_loss),
        outputs=settings.outputs,
        dynamic=settings.dynamic,
        batch=batch,
        opset=settings.opset,
        tolerance=settings.tolerance,
        min_iou=settings.min_iou,
        onnx2tf=settings.onnx2tf,
        metadata={"weights": origin(cfg.checkpoint, cfg.init)},
    )
    rows = [deployment.reference.row]
    for (target, preprocess, precision), path in paths.items():
        log.info(
            "exporting %s at %dx%d, %s, input %s",
            net.name,
            *sides(size, "size"),
            f"{target} in {precision}",
            preprocess,
        )
        rows += deployment.write(path, preprocess, precision, target)
    if settings.weights:
        write_net(net, size, user_path(settings.weights))
        log.info("wrote %s", settings.weights)
    print_table(rows, f"{net.name} on {len(images)} photos and {len(extreme)} extreme images")
    for (target, preprocess, _), path in paths.items():
        log.info("wrote %s (%.2f MB, input: %s)", path, net_bytes(path) / 1e6, preprocess)
        if target == "coreml":
            log.warning("%s was computed here by other means, and not run: only a Mac or a phone can", path.name)
    return max(row.largest for row in rows if not row.error)


def warn_of_idle(cfg: DictConfig, precisions: set[str]) -> None:
    """Say which settings of the command line no file depends on."""
    made = [PRECISIONS[name] for name in precisions]
    if cfg.checkpoint is not None:
        warn_idle("a checkpoint brings its own", "size", "model")
    if not any(precision.photos for precision in made):
        warn_idle("only int8 and fp16_compute look at photos", "export.calibration", "export.calibrate_on")
    if "int8" not in precisions:
        warn_idle("only int8 is measured on data", "export.max_loss", "data")
    else:
        warn_idle("only training reads it", *OF_TRAINING)
    if not any(precision.exact for precision in made):
        warn_idle("it is for fp32", "export.tolerance")
    if not any(precision.keeps_masks for precision in made):
        warn_idle("it is for fp16, packed and fp16_compute", "export.min_iou")


def kinds_of_files(settings: DictConfig) -> list[tuple[str, str, str]]:
    """Target, input and precision of each file to make.

    Raises:
        UserError: one of them is not known or does not go with the other settings, or one file is named for several.
    """
    wanted = {}
    for setting, known in {"target": TARGETS, "preprocess": INPUTS, "precision": PRECISIONS}.items():
        wanted[setting] = [settings[setting]] if isinstance(settings[setting], str) else list(settings[setting])
        unknown = [value for value in wanted[setting] if value not in known]
        if unknown or not wanted[setting]:
            given = unknown[0] if unknown else "[]"
            raise UserError(f"export.{setting}={given} is not known; choose one of: {', '.join(known)}.")
    chosen = list(product(*wanted.values()))
    made = [one for one in chosen if one[2] in TARGETS[one[0]].precisions]
    for target, _, precision in chosen:
        if precision not in TARGETS[target].precisions:
            reason = f"{target} has no {precision}, only {', '.join(TARGETS[target].precisions)}"
            if not any(one[0] == target for one in made):
                raise UserError(f"export.precision={precision}: {reason}.")
            log.warning("left out: %s", reason)
    for target in wanted["target"]:
        TARGETS[target].check_form(settings.dynamic, settings.batch, settings.outputs)
    if not settings.output:
        return made
    output, endings = user_path(settings.output), {name: target.ending for name, target in TARGETS.items()}
    if _is_one_file(made, output):
        ending = endings[made[0][0]]
        if made[0][0] != "onnx" and not output.name.endswith(ending):
            raise UserError(
                f"export.output={settings.output}: name a file for {made[0][0]} *{ending}, or give a folder."
            )
    elif output.name.endswith(tuple(endings.values())):
        raise UserError(f"export.output={settings.output} is one file for {len(made)}; give a folder.")
    return made


def files(
    settings: DictConfig, kinds: list[tuple[str, str, str]], name: str, folder: Path
) -> dict[tuple[str, str, str], Path]:
    """Where the file of each kind goes for the net `name`: as `settings.output` says, or into the run's folder."""
    output = user_path(settings.output or folder)
    if settings.output and _is_one_file(kinds, output):
        return {kinds[0]: output}
    return {(t, k, p): output / f"{name}-{k}{'' if p == 'fp32' else f'-{p}'}{TARGETS[t].ending}" for t, k, p in kinds}


def _is_one_file(kinds: list[tuple[str, str, str]], output: Path) -> bool:
    return len(kinds) == 1 and not output.is_dir()


def pairs_of(cfg: DictConfig, net: Net) -> list[Pair]:
    """Photos with masks, or for a net of classes with its classes, where `data` is given."""
    if not cfg.data:
        return []
    data = instantiate(cfg.data)
    theirs = list(data.labels.names) if isinstance(data, SemanticDataModule) and data.labels else []
    own = list(net.labels["names"]) if net.labels else []
    if own != theirs:
        wanted = f"its own classes, {', '.join(own)}: choose data with these" if own else "masks: choose data=ecssd"
        raise UserError(f"What int8 costs {net.name} is measured on {wanted}.")
    return [pair for found in data.test_pairs().values() for pair in found]


def photos_of(settings: DictConfig, setting: str, count: int) -> list[np.ndarray]:
    """The first photos of a folder, or generated ones."""
    if settings[setting]:
        photos = find_photos(settings[setting], setting=f"export.{setting}")[:count]
        return [read_image(photo) for photo, _ in photos]
    return [render(0, index)[0] for index in range(count)]


def extremes() -> list[np.ndarray]:
    """A black, a white and a grey image, and one of black and white pixels in turns."""
    plain_ones = [np.full((64, 64, 3), value, np.uint8) for value in (0, 255, 127)]
    return [*plain_ones, np.tile(np.array([[0, 255], [255, 0]], np.uint8)[..., None], (32, 32, 3))]


def print_table(rows: list[ParityRow], title: str) -> None:
    table = Table(
        "file",
        "MB",
        "runtime",
        "largest diff",
        "mean diff",
        "mask IoU",
        "median",
        "worst",
        "ms",
        "x torch",
        title=title,
    )
    for number, row in enumerate(rows):
        first = number == 0 or rows[number - 1].file != row.file
        about = (row.file, f"{row.bytes / 1e6:.2f}") if first else ("", "")
        if row.error:
            table.add_row(*about, row.runtime, "does not run it")
            continue
        ratio = rows[0].milliseconds / row.milliseconds
        ious = [f"{iou:.4f}" for iou in (row.iou, row.median_iou, row.worst_iou)]
        differences = f"{row.largest:.1e}", f"{row.mean:.1e}"
        table.add_row(*about, row.runtime, *differences, *ious, f"{row.milliseconds:.0f}", f"{ratio:.1f}")
    print_whole(table)
