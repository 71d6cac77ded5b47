"""Published state dictionaries of torch's read into our own nets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class
from torch import Tensor

from u2slim.errors import UserError
from u2slim.files import refuse_web_page
from u2slim.models import Net, build_net
from u2slim.zoo.records import PUBLISHED, structures

# Under these keys trainings keep the net's tensors beside what else they keep.
_WRAPPINGS = ("model", "state_dict", "net", "model_state_dict", "params")


def is_published(state: dict) -> bool:
    """Whether a state dictionary has the keys of some published net."""
    return any(next(iter(_keys(config))) in state for config in structures().values())


def published_net(path: str | Path) -> Net:
    """The published net in a `.pth` file, in evaluation mode.

    Raises:
        UserError: the file is missing, a training checkpoint, a web page, truncated, or holds anything that is no
            published net; the message says which.
    """
    config, tensors = load_published(path)
    net = build_net(config)
    net.load_state_dict(tensors)
    return net.eval()


def load_published(path: str | Path) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    """The config of the net in a `.pth` file, and its tensors under our keys, ready for a strict load.

    It may be saved from `DataParallel` (`module.` before each key), beside other things of a training, or by a version
    of torch's whose BatchNorm did not count its batches.

    Raises:
        UserError: as `published_net`.
    """
    path = Path(path)
    state = _unwrapped(path, read_tensors(path))
    for config in structures().values():
        names = _keys(config)
        counters = [key for key in names if key.endswith(".num_batches_tracked") and key not in state]
        found = state | dict.fromkeys(counters, torch.tensor(0))
        if names.keys() == found.keys() and not _misshapen(config, names, found):
            if wrong := [key for key in names if not found[key].isfinite().all()]:
                raise UserError(f"{path} has NaN or infinite values in {len(wrong)} of its tensors, e.g. {wrong[0]}.")
            return config, {ours: found[theirs] for theirs, ours in names.items()}
    raise _unknown(path, state)


def read_tensors(path: Path, address: str | None = None) -> dict[str, Tensor]:
    """The dictionary in a `.pth` file, read without running any code from it.

    Args:
        address: where the file is from; None: any published file.

    Raises:
        UserError: it is missing, a web page, damaged, or holds more than tensors.
    """
    if not path.is_file():
        raise UserError(f"No weights file at {path}; check init.weights.")
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    refuse_web_page(path, "weights")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for a damaged file
        if "Unsupported global: GLOBAL " in str(error):
            what = str(error).split("Unsupported global: GLOBAL ", 1)[1].split()[0]
            raise UserError(
                f"{path} cannot be read without running code from it: it holds {what}, and not tensors alone. "
                "A whole pickled module is of that kind: save net.state_dict() where its code is at hand."
            ) from error
        known = ", ".join(f"{f.name} {f.megabytes} MB" for net in PUBLISHED.values() for f in net.files)
        raise UserError(
            f"{path} ({size}) cannot be read as PyTorch weights: truncated, damaged, or of another kind "
            f"(the published files: {address or known}). Download it again. [{type(error).__name__}]"
        ) from error
    if not isinstance(state, dict):
        raise UserError(f"{path} holds a {type(state).__name__}, not a dictionary of tensors.")
    return state


def _unwrapped(path: Path, state: dict) -> dict[str, Tensor]:
    if "pytorch-lightning_version" in state:
        raise UserError(
            f"{path} is a training checkpoint, not published weights. "
            f"Give it as checkpoint= (or ckpt_path= to resume), not as init.weights."
        )
    for key in _WRAPPINGS:
        if isinstance(state.get(key), Mapping) and not isinstance(state[key], Tensor):
            state = dict(state[key])
            break
    for prefix in ("module.", "_orig_mod.", "module."):  # of DataParallel and torch.compile
        if state and all(str(key).startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return {key: tensor for key, tensor in state.items() if isinstance(tensor, Tensor)}


def _keys(config: Mapping[str, Any]) -> dict[str, str]:
    """A published file's key -> ours."""
    net: type[Net] = get_class(config["_target_"])
    return net.published_keys()


def _misshapen(config: Mapping[str, Any], names: Mapping[str, str], state: Mapping[str, Tensor]) -> list[str]:
    """The tensors whose shape is not that of the config's net."""
    with torch.device("meta"):
        expected = build_net(config).state_dict()
    return [theirs for theirs, ours in names.items() if state[theirs].shape != expected[ours].shape]


def _unknown(path: Path, state: dict[str, Tensor]) -> UserError:
    """What is wrong with a file, beside the published net that it has most keys of."""
    name, config = max(structures().items(), key=lambda item: len(_keys(item[1]).keys() & state.keys()))
    names = _keys(config)
    missing, extra = sorted(names.keys() - state.keys()), sorted(state.keys() - names.keys())
    if missing or extra:
        return UserError(
            f"{path} does not hold the {len(names)} tensors of {name}: {len(missing)} missing {missing[:2]}, "
            f"{len(extra)} unknown {extra[:2]}. Published nets: {', '.join(PUBLISHED)}."
        )
    wrong = _misshapen(config, names, state)
    return UserError(
        f"{path} has the tensors of {name}, but {len(wrong)} of another shape, e.g. {wrong[0]}. "
        f"Published nets: {', '.join(PUBLISHED)}."
    )
