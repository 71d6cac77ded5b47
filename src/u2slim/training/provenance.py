"""What a run's numbers came from: the state of the code, the net's size, the libraries."""

import subprocess
from pathlib import Path

import pytorch_lightning
import torch
from torch import nn

CODE = Path(__file__).parent


def provenance(net: nn.Module) -> dict[str, dict]:
    """`model_size`, `versions` and, where the code lies in a git repository, `git`, for the loggers' config."""
    versions = {"torch": str(torch.__version__), "pytorch_lightning": pytorch_lightning.__version__}
    return {"model_size": model_size(net), "versions": versions} | ({"git": git} if (git := git_state(CODE)) else {})


def model_size(net: nn.Module) -> dict[str, str | float]:
    """A net's name, its parameters in millions and their megabytes in float32."""
    count = sum(parameter.numel() for parameter in net.parameters())
    return {"name": net.name, "parameters_M": round(count / 1e6, 3), "MB_float32": round(count * 4e-6, 2)}


def git_state(folder: Path) -> dict[str, str | bool] | None:
    """Commit, branch and whether tracked files differ from that commit; None outside a git repository."""
    command = ["git", "-C", str(folder), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    about = dict(line.removeprefix("# branch.").split(" ", 1) for line in lines if line.startswith("# branch."))
    dirty = any(not line.startswith("#") for line in lines)
    return {"commit": about["oid"], "branch": about["head"], "dirty": dirty}
