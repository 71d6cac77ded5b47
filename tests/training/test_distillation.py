"""Learning from a teacher's outputs, also on images without masks."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir

from tests.conftest import REPO, SIZE, TINY, assert_same_samples, random_net, run, two_passes, write_set
from tests.training import test_ddp
from u2slim.callbacks import EMA, StepCheckpoint
from u2slim.callbacks.loss_guards import LossMeans
from u2slim.data.cache import SquareCache
from u2slim.data.saliency_datamodule import SaliencyDataModule
from u2slim.errors import UserError
from u2slim.models import DepthwiseSeparableConv, U2Net
from u2slim.tasks import SaliencyTask
from u2slim.training.distillation import Distillation, feature_loss
from u2slim.training.losses import DeepSupervision
from u2slim.training.run import train

WEIGHTS = (5, 1, 1, 1, 0.5, 1, 2)
STUDENT = {
    "_target_": "u2slim.models.U2Net",
    "width": "lite",
    "conv": {"_target_": "u2slim.models.DepthwiseSeparableConv", "_partial_": True},
}


@pytest.fixture
def image():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def bare(tmp_path) -> Path:
    """A folder of five images without masks, in `tmp_path`, none of which is in `duts`."""
    write_set(tmp_path / "made", "images", "masks", 5, first=20)
    return (tmp_path / "made/images").rename(tmp_path / "bare")


@pytest.mark.parametrize("temperature", [1, 4])
def test_the_logit_term_is_cross_entropy_of_each_output_at_its_own_size(published, image, temperature):
    student = random_net(conv=DepthwiseSeparableConv)
    logits, terms = Distillation(str(published), "lite", temperature=temperature)(student, image, WEIGHTS)
    targets = random_net()(image, upsampled=False)
    assert [tuple(each.shape[2:]) for each in logits] == [(side, side) for side in (64, 64, 32, 16, 8, 4, 2)]
    by_hand = 0
    for weight, x, t in zip(WEIGHTS, logits, targets, strict=True):
        x, t = (each.detach().double().numpy() / temperature for each in (x, t))
        by_hand += temperature**2 * weight * np.mean(np.logaddexp(0, x) - x / (1 + np.exp(-t)))
    assert terms.keys() == {"distill"}
    assert terms["distill"].item() == pytest.approx(by_hand, rel=1e-5)


def test_the_feature_term_is_the_mean_over_eleven_stages_of_relative_squared_errors(published, image):
    rng = np.random.default_rng(0)
    one, other = ([rng.normal(size=(2, 3, side, side)) * [[[[1]]], [[[9]]]] for side in (8, 4)] for _ in range(2))
    images = [(x, t) for maps in zip(one, other, strict=True) for x, t in zip(*maps, strict=True)]
    by_hand = np.mean([np.mean((x - t) ** 2) / np.mean(t**2) for x, t in images])
    assert float(feature_loss(*([torch.tensor(x) for x in maps] for maps in (one, other)))) == pytest.approx(by_hand)

    # Where the last stage returns twice what the teacher's does, its share of the mean is 1, and the others' 0.
    student = random_net()
    forward = student.decoder[-1].forward
    student.decoder[-1].forward = lambda x: 2 * forward(x)
    _, terms = Distillation(str(published), "lite", features=1.0)(student, image, WEIGHTS)
    assert terms["features"].item() == pytest.approx(1 / 11)


def test_a_student_like_its_teacher_has_nothing_to_learn_and_the_teacher_never_learns(published, image):
    distillation = Distillation(str(published), "lite", features=1.0)
    student = random_net()
    logits, terms = distillation(student, image, WEIGHTS)
    distillation.total(torch.zeros(()), terms).backward()
    assert terms["features"].item() == 0
    gradients = [parameter.grad.abs().max() for parameter in student.parameters()]
    probabilities = [each.detach().double().sigmoid() for each in logits]
    entropies = [torch.special.entr(p) + torch.special.entr(1 - p) for p in probabilities]
    entropy = sum(weight * each.mean() for weight, each in zip(WEIGHTS, entropies, strict=True))
    assert terms["distill"].item() == pytest.approx(float(entropy), rel=1e-5)

    before = {name: tensor.clone() for name, tensor in distillation.teacher.state_dict().items()}
    student = random_net(conv=DepthwiseSeparableConv).train()
    distillation.total(torch.zeros(()), distillation(student, image, WEIGHTS)[1]).backward()
    assert max(gradients) < 1e-4 * max(parameter.grad.abs().max() for parameter in student.parameters())
    assert all(parameter.grad is None for parameter in distillation.teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in distillation.teacher.state_dict().items())


def test_masks_count_by_the_labelled_share_of_a_batch():
    task = SaliencyTask(STUDENT, loss=DeepSupervision(WEIGHTS))
    logits = [torch.randn(4, 1, side, side, requires_grad=True) for side in (32, 32, 16, 8, 4, 2, 1)]
    mask = (torch.rand(4, 1, 32, 32) > 0.7).float() * torch.tensor([1.0, 0, 1, 0]).view(4, 1, 1, 1)
    total, terms, share = task.supervised(logits, {"mask": mask, "labelled": [True, False, True, False]}, 0.8)
    expected, each = task.loss(task.named([x[::2] for x in logits]), mask[::2])
    assert share == 0.5 and total.item() == pytest.approx(0.8 * 0.5 * expected.item())
    assert terms["side3"].item() == pytest.approx(each["side3"].item())
    total.backward()
    assert all(x.grad[::2].any() and not x.grad[1::2].any() for x in logits)
    for weight, labelled in ((0.0, [True] * 4), (1.0, [False] * 4)):
        total, *_ = task.supervised(logits, {"mask": mask, "labelled": labelled}, weight)
        assert float(total) == 0 and not total.requires_grad


def test_callbacks_see_the_mean_loss_and_foreground_of_labelled_images():
    class Means(LossMeans):
        def look(self, trainer, loss, answer, foreground):
            seen.append((answer, foreground))

    seen, callback = [], Means(3)
    strategy = SimpleNamespace(reduce=lambda values, reduce_op: values)
    for step, (share, answer, foreground) in enumerate([(1.0, 0.2, 0.3), (0.5, 0.8, 0.6), (0.0, 9.0, 0.0)], 1):
        trainer = SimpleNamespace(global_step=step, accumulate_grad_batches=1, strategy=strategy)
        outputs = {"total": torch.tensor(1.0), "answer": torch.tensor(answer), "labelled": share}
        callback.on_train_batch_end(trainer, None, outputs, {"mask": torch.tensor([share * foreground])}, step - 1)
    assert seen == [pytest.approx(((0.2 + 0.4) / 1.5, (0.3 + 0.3) / 1.5))]


def four_steps(data_options: dict, teacher: str, folder: Path, ckpt_path: Path | None = None) -> pl.Trainer:
    pl.seed_everything(0, verbose=False)
    data = SaliencyDataModule(**data_options, size=64, batch_size=4, val_count=2, num_workers=0)
    task = SaliencyTask(STUDENT, 64, distill=Distillation(teacher, "lite", labels=0.5, features=0.1))
    saves = StepCheckpoint(dirpath=folder, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=4, callbacks=[EMA(decay=0.7), saves], logger=False, default_root_dir=folder,
        enable_model_summary=False, enable_progress_bar=False, log_every_n_steps=1, limit_val_batches=0,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(task, data, ckpt_path=ckpt_path, weights_only=True)
    return trainer


def test_a_mixed_run_resumes_bit_for_bit_and_keeps_its_teacher_to_itself(duts, bare, published, tmp_path):
    options = {"root": str(duts), "train": ["duts_tr"], "unlabelled": str(bare)}
    trainer = four_steps(options, str(published), tmp_path / "whole")
    four_steps(options, str(published), tmp_path / "resumed", tmp_path / "whole/step=2.ckpt")
    last = tmp_path / "resumed/step=4.ckpt"
    whole, resumed = (torch.load(path, weights_only=True) for path in (tmp_path / "whole/step=4.ckpt", last))
    assert whole["global_step"] == resumed["global_step"] == 4
    for weights in ("state_dict", "current_model_state"):
        assert whole[weights].keys() == SaliencyTask(STUDENT).state_dict().keys(), "the net's alone"
        assert all(torch.equal(tensor, resumed[weights][name]) for name, tensor in whole[weights].items())
    left, right = (state["optimizer_states"][0]["state"] for state in (whole, resumed))
    assert all(torch.equal(left[i][name], right[i][name]) for i in left for name in left[i])
    task = trainer.lightning_module
    assert trainer.callbacks[0]._average_model.module.distill is task.distill
    assert len(list(task.parameters())) == len(list(task.net.parameters()))
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    names = ("fused", *(f"side{n}" for n in range(1, 7)))
    supervised = sum(logged[f"train/{name}"] for name in names)
    share = (logged["train/loss"] - logged["train/distill"] - 0.1 * logged["train/features"]) / (0.5 * supervised)
    assert min(abs(share - n / 4) for n in range(1, 5)) < 1e-4

    student = Distillation(str(last)).teacher
    assert student.name == "u2net-lite-dwsep"
    assert all(torch.equal(tensor, resumed["state_dict"][f"net.{k}"]) for k, tensor in student.state_dict().items())


def test_unlabelled_images_are_in_the_stream_as_others_are(duts, bare, tmp_path, caplog):
    write_set(duts / "ecssd", "images", "ground_truth_mask", 4, first=18)  # two of them are in `bare`
    (bare / "0020.png").write_bytes((bare / "0021.jpg").read_bytes()[:2000])
    options = {"root": str(duts), "train": ["duts_tr"], "val": ["ecssd"], "unlabelled": str(bare), "size": SIZE}
    with pytest.raises(UserError, match=r"0020.png cannot be read"):
        SaliencyDataModule(**options).setup()
    data = SaliencyDataModule(**options, on_bad="skip")
    data.setup()
    assert [pair.name for pair in data.val_pairs] == ["0018", "0019"]
    names = [f"{pair.set}/{pair.name}" for pair in data.train_pairs]
    assert names[:8] == [f"duts_tr/{n:04d}" for n in range(8)]
    assert names[8:] == [f"unlabelled/{n:04d}.jpg" for n in range(20, 25)]

    batches = two_passes(data.train_pairs)
    for batch in batches:
        unlabelled = [name.startswith("unlabelled/") for name in batch["name"]]
        assert [not known for known in batch["labelled"]] == unlabelled
        assert [not mask.any() for mask in batch["mask"]] == unlabelled
    for _ in range(2):
        assert_same_samples(two_passes(data.train_pairs, cache=SquareCache(tmp_path / "squares", SIZE, 0.1)), batches)

    before = data.state_dict()["training images"]
    shutil.copy(bare / "0021.jpg", bare / "0024.jpg")
    again = SaliencyDataModule(**options, on_bad="skip")
    again.setup()
    assert again.state_dict()["training images"] != before
    assert [replace(p, content="") for p in again.train_pairs] == [replace(p, content="") for p in data.train_pairs]


def test_train_py_learns_from_a_folder_without_masks(duts, bare, published):
    data = ("data.train=[]", f"data.unlabelled={bare}", "data.val=[duts_te]", f"data.root={duts}")
    teacher = ("distill=teacher", f"task.distill.teacher={published}")
    begin = ("init=pretrained", f"init.weights={published}", "init.lstsq.rounds=1", "init.lstsq.pixels=300")
    options = ("model=dwsep", *TINY, *data, *teacher, *begin, "trainer.max_steps=2", "task.recompute=true")
    folder = duts.parent
    printed = run("train.py", *options, "hydra.run.dir=run", cwd=folder)
    assert "training on 5 images (5 without masks), validating on 4" in printed
    assert "least squares over 111 convolutions" in printed  # on those five
    with (folder / "run/csv/version_0/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps = [row for row in rows if row["train/loss"]]
    assert len(steps) == 2 and all(row["train/loss"] == row["train/distill"] for row in steps)
    assert "train/fused" not in rows[0] and "train/features" not in rows[0]
    assert float(rows[-1]["val/MAE"]) > 0


@pytest.mark.slow
def test_two_processes_learn_as_one_where_they_have_other_shares_of_masks(duts, bare, published):
    teacher = ("distill=teacher", f"task.distill.teacher={published}", "task.distill.features=0.5")
    options = (*test_ddp.OPTIONS, *teacher, f"data.root={duts}", f"data.unlabelled={bare}")
    folder = duts.parent
    run("train.py", *options, "hydra.run.dir=one", cwd=folder)
    run("train.py", *options, *test_ddp.DDP, "hydra.run.dir=two", cwd=folder)
    test_ddp.assert_as_one(folder / "one", folder / "two")


def test_what_cannot_be_is_refused_in_a_sentence(duts, bare, published, tmp_path):
    with initialize_config_dir(str(REPO / "conf"), version_base="1.3"):
        cfg = compose("train", ["data.unlabelled=photos"])
    with pytest.raises(UserError, match="data.unlabelled=photos: images without masks need a teacher; add distill="):
        train(cfg, tmp_path)
    with pytest.raises(UserError, match="No net at none.pth: give a .ckpt"):
        Distillation("none.pth")
    assert Distillation(str(published)).teacher.name == "u2net-lite-standard", "the file says it, not the width"
    with pytest.raises(UserError, match="task.distill.width=medium is not known; choose one of: full, lite"):
        Distillation(width="medium")
    with pytest.raises(UserError, match="task.distill.features=-1: give a weight from 0 on"):
        Distillation(str(published), "lite", features=-1)
    with torch.device("meta"):
        full = U2Net("full")
    distillation = Distillation(str(published), "lite", features=1.0)
    with pytest.raises(
        UserError, match="stages, whose shapes differ in u2net-lite-standard, the teacher, and in u2net-full"
    ):
        distillation.check(full, compiled=False)
    with pytest.raises(UserError, match="task.compiled=true hides"):
        SaliencyTask(STUDENT, compiled=True, distill=distillation)

    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"No images in data.unlabelled=\S+empty"):
        SaliencyDataModule(str(duts), unlabelled=str(tmp_path / "empty")).setup()
    with pytest.raises(UserError, match="No images with masks are left to validate on; name a set"):
        SaliencyDataModule(str(duts), unlabelled=str(bare)).setup()
