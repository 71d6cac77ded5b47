"""`u2slim cut`: photos to cut-outs and masks."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from u2slim.app.options import Commands, add_command, add_options, open_cutter
from u2slim.errors import UserError
from u2slim.files import real_path, user_path
from u2slim.images.write import ENDINGS, FORMATS, format_of
from u2slim.remote import Place, is_address, open_address, without_protocol

if TYPE_CHECKING:
    from u2slim.cutout.batch import Outcome, Told
    from u2slim.cutout.cutter import Cutter
    from u2slim.cutout.manifest import Manifest, Shard
    from u2slim.images.photos import Found

PIPE = "-"
SHOWN = 5  # names of photos without a subject
EXAMPLES = """\
  u2slim cut photo.jpg                            photo-cut.png beside the photo
  u2slim cut photo.jpg -o cut.webp --crop 20      the format by the ending
  u2slim cut album 'holiday/*.jpg' -o results     results/cutouts/NAME.png and results/masks/NAME.png
  u2slim cut album -o shop --background white --format jpeg --keep exif,icc
  u2slim cut album -o results --mask only --net lite-half --json > facts.jsonl
  cat photo.jpg | u2slim cut - > cut.png          a pipe
  u2slim cut s3://shop/photos -o s3://shop/results                from and to a store that fsspec knows
  u2slim cut /nfs/photos -o /nfs/results --shard 3/8              the third of eight machines
  u2slim cut s3://shop/photos -o s3://shop/results --ray auto     all machines of a Ray cluster
"""


def add_to(commands: Commands) -> None:
    """Add the command to a parser's."""
    about = "cut the subjects out of photos: pictures with transparency, masks, or both"
    parser = add_command(commands, run, "cut", about, EXAMPLES)
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="photos, folders (with the folders in them), patterns, addresses of these (s3://..., gs://...), or - for "
        "standard input",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help="a folder or its address, for one photo also a file, or - for standard output; default: NAME-cut.png "
        "beside each photo",
    )
    add_options(parser)
    parser.add_argument("--redo", action="store_true", help="also do photos that are already done")
    parser.add_argument(
        "--json", action="store_true", help="print a line of JSON per photo: box, share, confidence, seconds"
    )
    add = parser.add_argument_group("many photos, and machines").add_argument
    add("--shard", type=_shard, metavar="I/N", help="split the photos into N parts and do only part I, as 3/8")
    add(
        "--manifest",
        action="store_true",
        help="keep a list of finished and failed photos in OUT/manifest, and continue from it; always on with --shard, "
        "--ray, or an address",
    )
    add(
        "--ray",
        metavar="ADDRESS",
        help="share the work by Ray: local, for processes on this machine; auto, for the cluster that it is in; or "
        "a cluster's address",
    )


def run(options: argparse.Namespace) -> int:
    """Do what the options say; 1 if any photo failed."""
    if options.output == "":
        raise UserError("-o has no name: give a folder, or a file for one photo.")
    from u2slim.images.photos import expanded

    options.inputs = [without_protocol(given) for given in options.inputs]
    options.output = without_protocol(options.output) if options.output else None
    addresses = list(filter(is_address, options.inputs))
    if not addresses:
        options.inputs = expanded(options.inputs)
    if PIPE in options.inputs or options.output == PIPE:
        if addresses or is_address(options.output or "") or options.shard or options.manifest or options.ray:
            raise UserError(
                "A pipe is for one photo on this machine: leave out addresses, --shard, --manifest and --ray."
            )
        return _pipe(options)
    if addresses and len(addresses) < len(options.inputs):
        raise UserError("Some inputs are addresses and some are not: give one kind in each command.")
    from u2slim.cutout.batch import cut_all, default_workers

    output = _output(options)
    is_file = output is not None and _is_file(options, output)
    if isinstance(output, Path) and output.exists() and not (output.is_dir() or is_file):
        raise UserError(f"-o {options.output} is a file, but not a picture: give a folder, or a picture's name.")
    has_manifest = _has_manifest(options, output, is_file)
    if addresses and output is None:
        raise UserError("-o is missing: name the folder for the results, on this machine or in a store.")
    found, keys = _find(options, output)
    photos, all_photos = found.photos, len(found.photos)
    if is_file and len(photos) > 1:
        raise UserError(f"-o {options.output} is one file for {len(photos)} photos; give a folder.")
    if options.shard:
        photos = [(photo, name) for photo, name in photos if options.shard.has(keys[photo])]
    if not photos and not found.closed:
        print(f"shard {options.shard} has none of the {_photos(all_photos)}: nothing to do.", file=sys.stderr)
        return 0
    workers = max(1, min(options.workers or default_workers(len(photos)), len(photos)))
    cutter = open_cutter(options, output, is_file, len(photos), 1 if options.ray else workers)
    source = "\n".join(str(real_path(user_path(given))) for given in options.inputs)
    work = None
    if options.ray:
        from u2slim.app.cluster import on_ray

        work = partial(on_ray, options)
    outcome = cut_all(
        cutter,
        source,
        photos,
        workers,
        options.redo,
        partial(_print_facts, out=sys.stdout) if options.json else None,
        progress=not options.json,
        manifest=_open_manifest(options, cutter) if has_manifest else None,
        work=work,
    )
    _tell(options, outcome, cutter, photos, found.closed)
    return int(bool(outcome.failed or found.closed))


def _tell(
    options: argparse.Namespace,
    outcome: "Outcome",
    cutter: "Cutter",
    photos: Sequence[tuple[Place, Path]],
    closed: Sequence[Place],
) -> None:
    """Print what became of the photos."""
    from u2slim.images.photos import closed_sentence

    for reason in [*outcome.failed.values(), *map(closed_sentence, closed)]:
        print(f"u2slim: {reason}", file=sys.stderr)
    if outcome.empty:
        print(f"no subject in {_first(sorted(outcome.empty), SHOWN)}: the mask is empty", file=sys.stderr)
    before = f" ({outcome.before} skipped, already done; --redo makes them again)" if outcome.before else ""
    where = f": {_where(cutter, photos)}" if outcome.done else ""
    shard = f" of shard {options.shard}" if options.shard else ""
    print(
        f"{outcome.done} of {_photos(len(photos))}{shard} done with {cutter.runner.runtime}{where}{before}",
        file=sys.stderr if options.json else sys.stdout,
    )
    if outcome.failed:
        print(f"u2slim: {_photos(len(outcome.failed))} could not be cut out, as said above.", file=sys.stderr)


def _output(options: argparse.Namespace) -> Place | None:
    if not options.output:
        return None
    return open_address(options.output) if is_address(options.output) else user_path(options.output)


def _has_manifest(options: argparse.Namespace, output: Place | None, is_file: bool) -> bool:
    """Whether this run goes by a manifest; one that is there is kept."""
    from u2slim.cutout.manifest import there_is_one

    asked = {"--shard": options.shard, "--manifest": options.manifest, "--ray": options.ray}
    given = [name for name, value in asked.items() if value]
    if given and (output is None or is_file):
        raise UserError(f"{given[0]} needs a folder for the results and their manifest: -o FOLDER.")
    if output is None or is_file:
        return False
    if given or is_address(options.inputs[0]):
        return True
    return not isinstance(output, Path) or there_is_one(output)


def _open_manifest(options: argparse.Namespace, cutter: "Cutter") -> "Manifest":
    from u2slim.cutout.manifest import Manifest

    assert cutter.output is not None
    told: dict[str, object] = {"net": options.net, "mask": cutter.mask, "cutout": cutter.cutout}
    if options.shard:
        told["shard"] = str(options.shard)
    settings = cutter.settings(f"mask: {cutter.mask}, cut-out: {cutter.cutout}")
    label = f"{options.shard.index}of{options.shard.count}" if options.shard else ""
    return Manifest(cutter.output, settings, told, label)


def _find(options: argparse.Namespace, output: Place | None) -> "tuple[Found, Mapping[Any, str]]":
    """The photos that are asked for, and what they are put into shards by; what is passed over is printed."""
    from u2slim.cutout.batch import WRITTEN, earlier_results
    from u2slim.cutout.cutter import NOTE
    from u2slim.images.photos import Found, find_all_photos, keys_below, others_named

    found: Found
    keys: Mapping[Any, str]
    if is_address(options.inputs[0]):
        from u2slim.images.remote_photos import find_remote_photos

        found, keys = find_remote_photos(options.inputs, NOTE, WRITTEN, None if isinstance(output, Path) else output)
    else:
        earlier = earlier_results(options.inputs, output if isinstance(output, Path) else None)
        found = find_all_photos(options.inputs, earlier, output is None)
        keys = keys_below(options.inputs, [photo for photo, _ in found.photos]) if options.shard else {}
    if found.results:
        print(f"passed over, as results of photos beside them: {_first(found.results)}", file=sys.stderr)
    if found.others:
        print(f"passed over, as no photos: {others_named(found.others)}", file=sys.stderr)
    if found.linked:
        print(f"passed over, as links to folders, unless you name them: {_first(found.linked)}", file=sys.stderr)
    return found, keys


def _is_file(options: argparse.Namespace, output: Place) -> bool:
    """Whether OUT is a file; what it is if it is there, and else, as at an address, what its name says."""
    if (isinstance(output, Path) and output.is_dir()) or options.output.endswith(("/", "\\")) or not output.suffix:
        return False
    if (kind := format_of(output)) is None:
        if len(options.inputs) > 1 or not user_path(options.inputs[0]).is_file():
            return False  # which it can only be for several
        raise UserError(
            f"-o {options.output} could be a file or a folder: end it in {', '.join(ENDINGS)} for a file, in / for a "
            "folder."
        )
    if options.format and FORMATS[options.format].endings != kind.endings:
        raise UserError(f"-o {options.output} is no {options.format} file: leave out --format, or change the ending.")
    options.format = options.format or kind.name
    return True


def _pipe(options: argparse.Namespace) -> int:
    """One photo from standard input or to standard output."""
    from u2slim.cutout.cutter import attempt, spare_inputs, write_files
    from u2slim.images.read import Loaded, load

    if len(options.inputs) > 1 or Path(options.inputs[0]).is_dir():
        raise UserError(
            "A pipe takes one photo, and no folder: leave out the other inputs, or name files instead of -."
        )
    output = user_path(options.output) if options.output not in (None, PIPE) else None
    if output is not None and not _is_file(options, output):
        raise UserError(f"-o {options.output} is not a picture's name: name the file to write, as cut.png.")
    if output is None and options.mask == "also":
        raise UserError("A pipe has room for one picture: give -o FILE for the cut-out and its mask, or --mask only.")
    if output is None and options.json:
        raise UserError("--json and the picture would both go to standard output: give -o FILE.")
    if output is None and (sys.stdout is None or sys.stdout.isatty()):
        raise UserError("The picture has no pipe or file to go to: add > FILE, or -o FILE.")
    given = options.inputs[0]
    if given == PIPE and (sys.stdin is None or sys.stdin.isatty()):
        raise UserError("Nothing is piped in: give a photo's name instead of -, or write cat photo.jpg | u2slim cut -")
    photo = Loaded("standard input", sys.stdin.buffer.read()) if given == PIPE else load(str(user_path(given)))
    cutter = open_cutter(options, output or Path(PIPE), True, 1, 1)
    if output is not None:
        spare_inputs(cutter, [(Path(photo.name), Path(photo.name))])
    made = attempt(cutter, photo)
    if isinstance(made, str):
        raise UserError(made)
    if made.is_empty:
        print(f"no subject in {photo.name}: the mask is empty", file=sys.stderr)
    if output is None:
        sys.stdout.buffer.write(made.files[0])
        sys.stdout.buffer.flush()
        return 0
    paths = cutter.paths(Path(photo.name), Path(photo.name))
    write_files(paths, made.files)
    if options.json:
        _print_facts(photo.name, paths, made)
    print(f"1 of 1 photo done with {cutter.runner.runtime}: {', '.join(map(str, paths))}", file=sys.stderr)
    return 0


def _shard(text: str) -> "Shard":
    from u2slim.cutout.manifest import Shard

    index, slash, number = text.partition("/")
    if not (slash and text.isascii() and index.isdecimal() and number.isdecimal() and 1 <= int(index) <= int(number)):
        raise argparse.ArgumentTypeError(f"{text}: give the part and the number of parts, from 1/8 to 8/8 for eight")
    return Shard(int(index), int(number))


def _print_facts(
    photo: Place | str, paths: Sequence[Place], made: "Told | str | None", out: TextIO | None = None
) -> None:
    """One line of JSON on a photo.

    Args:
        out: None: standard output as it is now.
    """
    if isinstance(made, str):
        told: dict[str, object] = {"error": made}
    else:
        told = {"files": list(map(str, paths)), **(made.facts() if made else {"skipped": True})}
    print(json.dumps({"photo": str(photo), **told}), flush=True, file=out)


def _where(cutter: "Cutter", photos: Sequence[tuple[Place, Path]]) -> str:
    if cutter.into_folder:
        return str(cutter.output)
    return ", ".join(map(str, cutter.paths(*photos[0]))) if len(photos) == 1 else "beside the photos"


def _first(paths: Sequence[str | Place], most: int = 1) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return f"{', '.join(map(str, paths[:most]))}{more}"


def _photos(number: int) -> str:
    return f"{number} photo{'' if number == 1 else 's'}"
