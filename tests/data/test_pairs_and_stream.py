"""Data sets on disk, and the stream of samples that training sees."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from tests.conftest import write_set
from u2slim.data.catalog import get_data_set
from u2slim.data.data_set import DataSet
from u2slim.data.dataset import PairDataset, StreamSampler, TrainStream
from u2slim.data.pairs import Pair, find_pairs
from u2slim.data.saliency_datamodule import SaliencyDataModule
from u2slim.data.transforms import u2net
from u2slim.errors import UserError


def trainer(step=0, rank=0, world=1):
    return SimpleNamespace(
        max_steps=10, accumulate_grad_batches=1, global_step=step, global_rank=rank, world_size=world
    )


def test_folders_are_found_in_any_case(tmp_path):
    write_set(tmp_path / "ecssd", "IMAGES", "Ground_Truth_Mask", 2)
    pairs = find_pairs(get_data_set("ecssd"), tmp_path)
    assert [pair.name for pair in pairs] == ["0000", "0001"]
    assert find_pairs(get_data_set("ecssd"), tmp_path / "ecssd") == pairs
    assert find_pairs(get_data_set("duts_tr"), tmp_path) is None
    with pytest.raises(UserError, match="No data set is called 'ecsd'.*ecssd"):
        find_pairs(get_data_set("ecsd"), tmp_path)


def test_images_and_masks_in_one_folder(tmp_path):
    write_set(tmp_path / "MSRA10K_Imgs_GT", "Imgs", "Imgs", 3)
    pairs = find_pairs(get_data_set("msra10k"), tmp_path)
    assert [(p.image.suffix, p.mask.suffix) for p in pairs] == [(".jpg", ".png")] * 3


def test_an_image_without_a_mask_is_named(duts):
    (duts / "DUTS-TR" / "DUTS-TR-Mask" / "0003.png").unlink()
    with pytest.raises(UserError, match=r"1 pairs cannot be used:\s+\S*0003\.jpg has no mask"):
        find_pairs(get_data_set("duts_tr"), duts)


def test_a_mask_of_another_size_is_named(duts):
    Image.new("L", (10, 20)).save(duts / "DUTS-TR" / "DUTS-TR-Mask" / "0003.png")
    with pytest.raises(UserError, match=r"1 pairs cannot be used:\s+\S*0003\.jpg is \d+x\d+, its mask 10x20"):
        find_pairs(get_data_set("duts_tr"), duts)


def test_duts_merges_both_halves_and_says_what_is_missing(duts, caplog):
    write_set(duts / "ECSSD", "images", "ground_truth_mask", 5, first=20)
    data = SaliencyDataModule(str(duts), ["duts_tr", "duts_te"], ["ecssd", "hku_is"], val_count=3)
    with caplog.at_level("INFO"):
        data.setup()
    assert len(data.train_pairs) == 12
    assert {pair.set for pair in data.train_pairs} == {"duts_tr", "duts_te"}
    assert len(data.val_pairs) == 3 and {pair.set for pair in data.val_pairs} == {"ecssd"}
    assert "HKU-IS is not under" in caplog.text
    assert "DUTS-TR: 8 images found, 10553 published" in caplog.text


def test_without_validation_sets_a_seeded_part_is_held_out(duts, caplog):
    with caplog.at_level("INFO"):
        draws = []
        for seed in (0, 0, 1):
            data = SaliencyDataModule(str(duts), ["duts_tr", "duts_te"], ["ecssd"], val_count=1000, seed=seed)
            data.setup()
            train, val = ({(p.set, p.name) for p in pairs} for pairs in (data.train_pairs, data.val_pairs))
            assert not train & val and len(train | val) == 12 and len(val) == 1
            draws.append(val)
    assert draws[0] == draws[1] != draws[2]
    assert "1 training images held out (seed 0)" in caplog.text


def test_no_data_says_what_to_put_where(tmp_path):
    with pytest.raises(UserError, match=r"No data under data\.root=.*DUTS-TR-Image and .*DUTS-TR-Mask"):
        SaliencyDataModule(str(tmp_path / "nothing"), ["duts_tr"]).setup()


def coordinates(tmp_path, count: int = 5, size: int = 320) -> list[Pair]:
    """Images whose colour is their position and number, with a mask that says the same as the red channel."""
    pairs = []
    ramp = np.tile(np.linspace(0, 255, size).astype(np.uint8), (size, 1))
    for index in range(count):
        pixels = np.dstack([ramp, ramp.T, np.full_like(ramp, 40 * index)])
        image, mask = tmp_path / f"{index}.png", tmp_path / f"{index}.mask.png"
        Image.fromarray(pixels).save(image)
        Image.fromarray(ramp).save(mask)
        pairs.append(Pair(DataSet("grid"), str(index), image, mask))
    return pairs


def test_image_and_mask_stay_aligned_through_augmentation(tmp_path):
    stream = TrainStream(coordinates(tmp_path), 320, u2net(), seed=0)
    for k in range(20):
        sample = stream[k]
        assert sample["image"].shape == (288, 288, 3) and sample["image"].dtype == torch.uint8
        torch.testing.assert_close(sample["image"][..., 0], sample["mask"][0], rtol=0, atol=0)


def test_flips_and_crops_are_independent_and_even(tmp_path):
    stream = TrainStream(coordinates(tmp_path), 320, u2net(), seed=0)
    flips, crops = [], set()
    for k in range(200):
        image = stream[k]["image"].permute(2, 0, 1).int()
        flips.append((int(image[0, 0, -1] < image[0, 0, 0]), int(image[1, -1, 0] < image[1, 0, 0])))
        crops.add((int(image[0, 0, 0]), int(image[1, 0, 0])))
    counts = [flips.count(pair) for pair in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert min(counts) > 30, counts
    assert len(crops) > 100


def test_every_pass_shows_every_image_once_in_a_new_order(tmp_path):
    stream = TrainStream(coordinates(tmp_path), 32, None, seed=3)
    passes = [[stream[5 * sweep + i]["name"] for i in range(5)] for sweep in range(6)]
    assert all(sorted(names) == [f"grid/{i}" for i in range(5)] for names in passes)
    assert len({tuple(names) for names in passes}) > 3


def batches(stream, workers=0, **options):
    loader = DataLoader(stream, num_workers=workers, batch_sampler=StreamSampler(6, 4, **options))
    return [(batch["name"], batch["image"]) for batch in loader]


def assert_same(left, right):
    assert [names for names, _ in left] == [names for names, _ in right]
    for (_, a), (_, b) in zip(left, right, strict=True):
        assert torch.equal(a, b)


def test_the_stream_depends_on_nothing_but_seed_and_number(tmp_path):
    pairs = coordinates(tmp_path)
    whole = batches(TrainStream(pairs, 320, u2net(), seed=0))
    assert_same(whole, batches(TrainStream(pairs, 320, u2net(), seed=0), workers=2))
    assert_same(whole[3:], batches(TrainStream(pairs, 320, u2net(), seed=0), start=3))
    halves = [batches(TrainStream(pairs, 320, u2net(), seed=0), rank=rank, world_size=2) for rank in (0, 1)]
    joined = [(a[0] + b[0], torch.cat([a[1], b[1]])) for a, b in zip(*halves, strict=True)]
    assert_same(whole, joined)
    other = batches(TrainStream(pairs, 320, u2net(), seed=1))
    assert not all(torch.equal(a, b) for (_, a), (_, b) in zip(whole, other, strict=True))


def test_global_batch_must_divide_by_the_processes(duts):
    data = SaliencyDataModule(str(duts), ["duts_tr"], batch_size=15)
    data.setup()
    data.trainer = trainer(world=2)
    with pytest.raises(UserError, match="data.batch_size=15 is the global batch and does not divide by 2"):
        data.train_dataloader()


def test_two_processes_validate_disjoint_halves(duts):
    write_set(duts / "ECSSD", "images", "ground_truth_mask", 5, first=20)
    data = SaliencyDataModule(str(duts), ["duts_tr"], ["ecssd"], num_workers=0, size=32)
    data.setup()
    names = []
    for rank in (0, 1):
        data.trainer = trainer(rank=rank, world=2)
        names.append([name for batch in data.val_dataloader() for name in batch["name"]])
    assert [len(part) for part in names] == [3, 2]
    assert sorted(names[0] + names[1]) == [f"ecssd/{i:04d}" for i in range(20, 25)]


def test_a_corrupt_image_stops_with_its_name(duts):
    path = duts / "DUTS-TR" / "DUTS-TR-Image" / "0002.jpg"
    path.write_bytes(path.read_bytes()[:2000])
    dataset = PairDataset(find_pairs(get_data_set("duts_tr"), duts), 64)
    with pytest.raises(UserError, match="0002.jpg cannot be read"):
        dataset[2]
    path.write_bytes(b"")
    with pytest.raises(UserError, match="0002.jpg is empty"):
        find_pairs(get_data_set("duts_tr"), duts)


def test_sample_set_is_made_on_first_use(tmp_path, monkeypatch):
    from u2slim.data import sample

    made = []
    monkeypatch.setattr(sample, "write_sample_set", lambda root: made.append(root))
    data = SaliencyDataModule(str(tmp_path), ["sample_tr"], test={"sample_te": None}, generate=True)
    with pytest.raises(UserError, match="No data under"):
        data.test_pairs()
    assert made == [tmp_path]


def test_a_training_mix_is_not_scored(duts):
    with pytest.raises(UserError, match="names no sets to score"):
        SaliencyDataModule(str(duts), ["duts_tr"]).test_pairs()


def test_generic_folder_names_count_only_inside_a_set(tmp_path):
    write_set(tmp_path, "images", "masks", 2)
    assert find_pairs(get_data_set("dut_omron"), tmp_path) is None
    write_set(tmp_path / "DUT-OMRON", "images", "masks", 2)
    assert len(find_pairs(get_data_set("dut_omron"), tmp_path)) == 2
    write_set(tmp_path, "DUTS-TR-Image", "DUTS-TR-Mask", 3)
    assert len(find_pairs(get_data_set("duts_tr"), tmp_path)) == 3


def test_resuming_on_other_data_is_said(duts, caplog):
    def module(**options):
        data = SaliencyDataModule(str(duts), ["duts_tr", "duts_te"], val_count=1, **options)
        data.setup()
        return data

    before = module()
    module().load_state_dict(before.state_dict())
    assert "the checkpoint was made with other" not in caplog.text
    module(batch_size=4).load_state_dict(before.state_dict())
    assert "the checkpoint was made with other ['global batch size']" in caplog.text
    write_set(duts / "DUTS-TE", "DUTS-TE-Image", "DUTS-TE-Mask", 1, first=40)
    module().load_state_dict(before.state_dict())
    assert "the checkpoint was made with other ['training images'" in caplog.text


def test_bad_pairs_of_training_and_validation_are_listed_together(duts):
    write_set(duts / "ECSSD", "images", "ground_truth_mask", 3, first=20)
    for path in (duts / "DUTS-TR/DUTS-TR-Mask/0003.png", duts / "ECSSD/ground_truth_mask/0021.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"2 pairs cannot be used:\n\s+\S*0003.png is empty(.|\n)*0021.png is empty"):
        SaliencyDataModule(str(duts), ["duts_tr"], ["ecssd"]).setup()
