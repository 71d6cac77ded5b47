"""Settings of any kind are taken or refused in a sentence that quotes them, before anything is read."""

import errno
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from u2slim.cli import ending_in_a_sentence
from u2slim.data.saliency_datamodule import SaliencyDataModule
from u2slim.errors import UserError

NUMBERS = ("val_count", "batch_size", "val_batch_size", "limit_train", "num_workers", "seed", "size", "cache_gb")
anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5),
    st.lists(st.integers(-1, 64), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([*NUMBERS, "train", "val", "test", "sets", "on_bad", "repeats_apart"]), anything)
def test_any_value_is_taken_or_quoted(tmp_path, name, value):
    try:
        SaliencyDataModule(str(tmp_path), **{name: value}, **({"cache": str(tmp_path)} if name == "cache_gb" else {}))
    except UserError as error:
        assert name in str(error) or repr(value) in str(error) or "No data set is called" in str(error)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"size": 0}, "data.size=0: give a side"),
        ({"size": True}, "data.size=True: give a side"),
        ({"seed": -1}, "data.seed=-1: give a whole number from 0 on"),
        ({"seed": "x"}, "data.seed=x: give a whole number"),
        ({"cache": "c", "cache_gb": float("inf")}, "data.cache_gb=inf: give a size above 0"),
        ({"cache": "c", "cache_gb": "8"}, "data.cache_gb=8: give a size above 0"),
        ({"train": 5}, "data.train=5: give the names"),
        ({"val": [["ecssd"]]}, r"data.val=\[\['ecssd'\]\]: give the names"),
        ({"test": [3]}, r"data.test=\[3\]: give each set's name"),
        ({"root": None}, "data.root=None: give the folder"),
    ],
)
def test_what_cannot_be_is_named_with_what_can(tmp_path, monkeypatch, setting, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=sentence):
        SaliencyDataModule(**{"root": "data", **setting})


def test_a_root_may_look_like_a_number():
    assert SaliencyDataModule(2026).root == Path("2026")


def test_a_cache_behind_links_in_a_circle_is_refused(tmp_path):
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(UserError, match="No cache of samples can be kept in .*circle"):
        SaliencyDataModule("data", cache=str(tmp_path / "circle"))


def test_a_name_that_no_file_can_have_ends_in_a_sentence(caplog):
    with pytest.raises(SystemExit) as end:
        ending_in_a_sentence(lambda _: Path("x" * 5000).stat())(None)
    assert end.value.code == 1
    assert "cannot be read or written" in caplog.text and "Choose another place." in caplog.text
    with pytest.raises(SystemExit):
        ending_in_a_sentence(lambda _: Path("/dev/null/x.onnx").unlink())(None)
    assert "/dev/null/x.onnx cannot be read or written: Not a directory." in caplog.text
    with pytest.raises(OSError, match="odd"):
        ending_in_a_sentence(lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "odd")).__next__())(None)
