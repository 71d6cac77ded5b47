"""Nets in the runtimes of phones, as a table: python -m benchmarks.phones --root DATA [--nets NAME ...] > FILE

Each net is converted to each kind of file in each precision, and compared with PyTorch as export.py does it: on four
photos and four extreme images. What runs here is then scored by eval.py, with the net itself beside it. All
files of a net take turns there, so compare the milliseconds of one net only. DATA holds ECSSD, for the scores, and
DUTS-TR, whose first photos tell what 8 bits take and cost; nets with classes have CamVid's two parts instead.

Files, rows and scores stay in --folder, and the same command continues from them. What it needs: docs/guides/phones.md.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from itertools import product
from pathlib import Path

from benchmarks.markdown import Row, head, line
from u2slim.data.catalog import get_data_set
from u2slim.data.pairs import Pair, find_pairs
from u2slim.errors import UserError
from u2slim.export.calibration import Gate
from u2slim.export.deploy import Deployment
from u2slim.export.run import extremes
from u2slim.export.targets import TARGETS
from u2slim.images.read import read_image
from u2slim.overrides import override, quoted
from u2slim.repository import REPOSITORY
from u2slim.runtime import PHONE_RUNTIMES
from u2slim.zoo import open_net
from u2slim.zoo.fetch import NETS as SHIPPED

ON_PHONES = tuple(name for name, target in TARGETS.items() if target.convert)
NETS = ("lite-two-thirds", "lite-half", "lite-l", "lite-m", "lite-s", "lite-dwsep", "isnet-s", "icnet-camvid")
# The sets that a net is compared and scored on, and looks at for 8 bits, by whether it tells classes apart.
SETS = {False: ("ecssd", "duts_tr"), True: ("camvid_val", "camvid_train")}
CALIBRATE_ON, COMPARED_ON = 16, 4  # photos
COLUMNS = {
    "net": ("net", ""),
    "precision": ("precision", ""),
    "runtime": ("runtime", ""),
    "megabytes": ("MB", ".2f"),
    "largest": ("largest difference", ".1e"),
    "mean": ("mean", ".0e"),
    "median_iou": ("IoU, median", ".4f"),
    "worst_iou": ("worst", ".4f"),
    "score": ("maxF or mIoU", ".3f"),
    "bIoU": ("boundary IoU", ".3f"),
    "milliseconds": ("ms", ".0f"),
    "refused": ("", ""),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--root", type=Path, required=True, metavar="DATA", help="the folder of the data sets")
    add("--nets", nargs="+", default=list(NETS), metavar="NAME", help=f"by name or file; default: {' '.join(NETS)}")
    add("--targets", nargs="+", choices=ON_PHONES, default=list(ON_PHONES))
    add("--precisions", nargs="+", choices=("fp32", "fp16", "int8"), default=["fp32", "fp16"])
    add("--folder", type=Path, default=REPOSITORY / "build" / "phones", help="where the files go")
    add("--onnx2tf", default="onnx2tf", help="the program that makes files for LiteRT")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    print(head(COLUMNS), flush=True)
    for name in options.nets:
        for row in scored(name, converted(name, options), options):
            print(line(row, COLUMNS), flush=True)


def converted(name: str, options: argparse.Namespace) -> list[Row]:
    """A row for each file that is wanted of a net: how it compares with torch, or why there is none."""
    net = open_net(name).net()
    scored_on, looked_at = SETS[net.classes is not None]
    samples = pairs_of(options.root, looked_at)[:CALIBRATE_ON]
    images = [read_image(pair.image) for pair in pairs_of(options.root, scored_on)[:COMPARED_ON]]
    photos = [read_image(pair.image) for pair in samples]
    # Ten times what export.py allows in float32: files that it refuses for one pixel have a row that says so.
    deployment = Deployment(
        net,
        net.preprocess.size,
        [*images, *extremes()],
        photos,
        Gate(samples, photos),
        tolerance=1e-3,
        onnx2tf=options.onnx2tf,
    )
    rows: list[Row] = []
    for target, precision in product(options.targets, options.precisions):
        path = options.folder / f"{Path(name).stem}-{target}-{precision}{TARGETS[target].ending}"
        note = path.with_name(f"{path.name}.row.json")
        if not note.is_file():
            print(f"{name}: {target} in {precision}", file=sys.stderr)
            row: Row = {"net": name, "precision": precision, "runtime": target, "file": str(path)}
            try:
                parity = deployment.write(path, "embedded", precision, target)[-1]
            except UserError as error:
                row["refused"] = str(error)
            else:
                row |= {key: value for key, value in asdict(parity).items() if key in COLUMNS and key not in row}
                row["megabytes"] = parity.bytes / 1e6
                del row["milliseconds"]  # of one file alone; those of all in turns come later
            note.write_text(json.dumps(row))
        rows.append(json.loads(note.read_text()))
    return rows


def pairs_of(root: Path, name: str) -> list[Pair]:
    pairs = find_pairs(get_data_set(name), root)
    if not pairs:
        sys.exit(f"{name} is not in {root}.")
    return pairs


def scored(name: str, rows: list[Row], options: argparse.Namespace) -> list[Row]:
    """The rows, and first one of the net itself, with what eval.py says of each file that runs here."""
    shipped = SHIPPED / f"{name}.onnx"
    whole: Row = {"net": name, "precision": "as it is", "file": str(shipped) if shipped.is_file() else name}
    run_here = [whole, *(row for row in rows if row["runtime"] in PHONE_RUNTIMES and "refused" not in row)]
    models = ", ".join(f"net{number}: {quoted('models', str(row['file']))}" for number, row in enumerate(run_here))
    is_class_net = open_net(name).net().classes is not None
    scores_folder = options.folder / f"{Path(name).stem}-scores"
    print(f"{name}: scores of {len(run_here)} files", file=sys.stderr)
    command = [sys.executable, str(REPOSITORY / "eval.py"), f"models={{{models}}}", "stretch=true"]
    command += [f"data={'camvid' if is_class_net else 'ecssd'}", override("data.root", options.root.resolve())]
    command += [override("store", options.folder / "scores.sqlite"), override("hydra.run.dir", scores_folder)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    found = json.loads((scores_folder / "metrics.json").read_text())
    whole |= {key: found["models"]["net0"][key] for key in ("megabytes", "runtime")}
    for result in found["results"]:
        row = run_here[int(result["model"].removeprefix("net"))]
        row["score"] = result["mIoU" if is_class_net else "maxF"]
        row["milliseconds"] = found["models"][result["model"]]["milliseconds"]
        if not is_class_net:
            row["bIoU"] = result["bIoU"]
    return [whole, *rows]


if __name__ == "__main__":
    main()
