"""Which photos fits look at, and which are kept from them."""

import numpy as np
import pytest
from PIL import Image

from u2slim.data.unlabelled import HELD_OUT, Photos, drawn, held_out


@pytest.mark.parametrize("photos", [1, 2, 9, 64, 399, 401, 10553])
def test_no_fit_looks_at_what_is_held_out_while_others_are_left(photos):
    held = held_out(photos)
    assert len(set(held)) == len(held) == min(HELD_OUT, photos // 2)
    for seed in range(5):
        some = drawn(photos, photos - len(held), seed)
        assert sorted([*some, *held]) == list(range(photos)), "these and no others"
        assert sorted(drawn(photos, photos + 7, seed)) == list(range(photos)), "where all are asked for, all come"
        assert list(drawn(photos, 3, seed)) == list(some[:3]) or len(some) < 3
    first = photos - len(held)
    assert list(drawn(photos, first, 0)) == list(np.random.default_rng(0).permutation(photos)[:first])


def test_squares_are_of_the_photos_that_are_drawn(tmp_path):
    for level in range(9):
        Image.new("RGB", (40, 30), (20 * level,) * 3).save(tmp_path / f"{level}.png")
    squares = Photos.below(tmp_path, 32).squares(5, seed=3)
    levels = [int(square[0, 0, 0]) // 20 for square in squares]
    assert squares.shape == (5, 3, 32, 32) and levels == list(drawn(9, 5, 3))
    assert not {*levels} & {*held_out(9)}
