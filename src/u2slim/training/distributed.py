"""Training in several processes: one folder, one log, and nobody left behind."""

import logging
import os
from contextlib import contextmanager

import torch
from hydra.core.hydra_config import HydraConfig
from pytorch_lightning.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from pytorch_lightning.utilities import rank_zero_only

from u2slim.cli import folder_is_given
from u2slim.errors import UserError
from u2slim.processes import end_with_parent

LAUNCHER = "U2SLIM_LAUNCHER"  # the process that starts the others tells them its id, as it may be gone when they ask


def join_run(num_nodes: int) -> bool:
    """Prepare this process for its part in a run; whether it is the run's first, which writes the run's files.

    The others log only errors, until `all_speak`.

    Raises:
        UserError: the processes were not started by one of them, and so would each name a folder of their own.
    """
    hydra = HydraConfig.get()
    if "_ddp_process_" in hydra.job.name:  # what Lightning calls the processes that it starts
        end_with_parent(int(os.environ[LAUNCHER]))
    elif (num_nodes > 1 or _started_together()) and not folder_is_given():
        raise UserError(
            "Processes that are started separately would use different folders; give all the same hydra.run.dir=DIR."
        )
    os.environ.setdefault(LAUNCHER, str(os.getpid()))
    if rank_zero_only.rank > 0:
        logging.getLogger().setLevel(logging.ERROR)
    return rank_zero_only.rank == 0 and os.environ.get("NODE_RANK", "0") == "0"


def all_speak() -> None:
    """From here on the other processes log their warnings too: those before were about what all of them see."""
    if rank_zero_only.rank > 0:
        logging.getLogger().setLevel(logging.WARNING)


@contextmanager
def lost_process_named():
    """Turn the error of a broken connection between the processes into a sentence."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.distributed.DistError) and "gloo/transport" not in str(error):
            raise
        raise UserError(
            "The connection to another process of this run broke: it ended, for a reason that it may have printed "
            "above. The checkpoints so far are whole; continue with ckpt_path=last in the same hydra.run.dir. "
            f"[{type(error).__name__}: {str(error).splitlines()[0]}]"
        ) from error


def _started_together() -> bool:
    return any(
        environment.detect() and environment().world_size() > 1
        for environment in (TorchElasticEnvironment, SLURMEnvironment)
    )
