"""Training on a net that is good already, with one's own few photos: what stays, what learns slower, when it ends."""

import json
import re
from functools import partial

import numpy as np
import pytest
import torch

from tests.conftest import run, write_set
from u2slim.data.sample import render
from u2slim.errors import UserError
from u2slim.models import U2Net
from u2slim.runtime import net_runner
from u2slim.tasks import SaliencyTask
from u2slim.training.losses import DeepSupervision
from u2slim.training.parts import modules_of
from u2slim.training.schedules import schedule
from u2slim.zoo import open_net
from u2slim.zoo.onnx_net import is_folded

LITE = {"_target_": "u2slim.models.U2Net", "width": "lite"}


def task(**options) -> SaliencyTask:
    return SaliencyTask(LITE, 64, loss=DeepSupervision(), **options)


def step(made: SaliencyTask, optimizer: torch.optim.Optimizer) -> None:
    made.train()
    made.on_train_start()
    torch.manual_seed(0)
    image, mask = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), torch.rand(2, 1, 64, 64)
    total, _ = made.losses(image, mask)
    total.backward()
    optimizer.step()


def test_frozen_parts_stay_to_the_bit_and_the_others_learn():
    made = task(freeze=["encoder", "decoder.0"], optimizer=partial(torch.optim.Adam, lr=1e-2))
    before = {name: tensor.clone() for name, tensor in made.net.state_dict().items()}
    step(made, made.configure_optimizers()["optimizer"])
    changed = {name for name, tensor in made.net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and not [name for name in changed if name.startswith(("encoder.", "decoder.0."))]
    assert any("running_mean" in name for name in changed), "elsewhere BatchNorm goes on measuring"


def test_frozen_batchnorms_keep_their_statistics_where_they_are_replaced_by_synchronised_ones():
    made = task(freeze=["encoder"])
    made.net = torch.nn.SyncBatchNorm.convert_sync_batchnorm(made.net)
    made.train()
    made.on_train_start()
    norms = {n: m for n, m in made.net.named_modules() if isinstance(m, torch.nn.SyncBatchNorm)}
    assert norms and all(norm.training != name.startswith("encoder.") for name, norm in norms.items())


def test_parts_learn_at_their_own_rates_through_a_schedule():
    rates = {"encoder": 0.1, "encoder.5": 0.5, "heads": 2}
    made = task(
        rates=rates,
        optimizer=partial(torch.optim.SGD, lr=1e-2),
        scheduler=partial(schedule, shape="cosine", total_steps=10, warmup_steps=2),
    )
    found = made.configure_optimizers()
    optimizer, scheduler = found["optimizer"], found["lr_scheduler"]["scheduler"]
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(group_of) == len(list(made.net.parameters()))
    factors = {"encoder.0": 0.1, "encoder.5": 0.5, "decoder.1": 1, "sides.2": 2}
    for _ in range(3):
        rest = group_of[id(next(made.net.get_submodule("decoder.1").parameters()))]["lr"]
        for name, factor in factors.items():
            lr = group_of[id(next(made.net.get_submodule(name).parameters()))]["lr"]
            assert lr == pytest.approx(factor * rest)
        optimizer.step()
        scheduler.step()
    one_cycle = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=1e-2, total_steps=10)
    with pytest.raises(UserError, match="one_cycle has one learning rate for all parts"):
        task(rates=rates, optimizer=partial(torch.optim.SGD, lr=1e-2), scheduler=one_cycle).configure_optimizers()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"freeze": ["backbone"]},
            "u2net-lite.* has no part 'backbone'; it has encoder, decoder, .*heads, and parts of these",
        ),
        ({"freeze": "encoder"}, r"task\.freeze=encoder: give parts of the net"),
        ({"freeze": ["encoder", "decoder", "heads"]}, "leaves nothing to train"),
        ({"rates": {"encoder": 0}}, r"task\.rates has encoder: 0; give factors"),
        ({"rates": {"tail": 0.1}}, "task.rates: .* has no part 'tail'"),
    ],
)
def test_a_wrong_part_is_a_sentence_before_anything_is_trained(options, sentence):
    with pytest.raises(UserError, match=sentence):
        task(**options)


def test_heads_are_what_makes_the_logits():
    net = U2Net("lite")
    assert modules_of(net, "heads", "task.freeze") == net.heads and len(net.heads) == 7


def test_the_experiment_takes_the_nets_own_config_keeps_the_best_and_ends_by_itself(tmp_path):
    write_set(tmp_path, "photos", "masks", 12)
    tiny = ("trainer=cpu", "data.size=[48,64]", "data.batch_size=2", "data.num_workers=0", "optimizer.lr=1e-9")
    steps = ("trainer.max_steps=40", "callbacks.checkpoint.every_n_train_steps=1", "callbacks.early_stop.patience=1")
    given = ("data.images=photos", "data.masks=masks", "init.path=lite-s", "task.freeze=[encoder]")
    printed = run("train.py", "experiment=finetune", *given, *tiny, *steps, "hydra.run.dir=run", cwd=tmp_path)
    scores = json.loads((tmp_path / "run/metrics.json").read_text())
    assert scores["step"] == 2 and scores["max_steps"] == 40, "the second validation was no better"
    assert "took the weights of" in printed and "so few images say little about others" in " ".join(printed.split())
    assert (tmp_path / "run/checkpoints/best.ckpt").resolve() == tmp_path / "run/checkpoints/best_000001.ckpt"
    before = re.search(r"before training: .*val/maxF ([\d.]+)", printed)[1]
    assert f"best by val/maxF ({before}, before training {before}): " in " ".join(printed.split())
    assert f"Training made the net no better: val/maxF was {before} before." in " ".join(printed.split())
    net, photo = open_net(tmp_path / "run/checkpoints/last.ckpt").net(), render(0, 1)[0]
    assert not is_folded(net), "there are statistics to train by"
    mask, same = net_runner(net, 64, "torch")(photo), open_net("lite-s").runner("torch", size=64)(photo)
    assert np.abs(mask - same).max() < 1e-4, "nothing but that has changed, at such a learning rate"
    again = run(
        *("train.py", "experiment=finetune", *given, *tiny, *steps, "hydra.run.dir=run", "resume=auto"), cwd=tmp_path
    )
    assert "is finished: trained to step 2" in again
    printed = run("train.py", "experiment=finetune", *given, "init.path=null", *tiny, cwd=tmp_path, ok=False)
    assert "model=of_init is the net of init=checkpoint: add init.path" in printed
