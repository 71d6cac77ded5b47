"""benchmarks.gpu where there is no GPU: the table is whole, and no way of computing makes another mask."""

import subprocess
import sys

import pytest

from tests.conftest import REPO


@pytest.mark.slow
def test_the_table_is_made_on_a_cpu_too():
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--nets", "lite-dwsep", "--batch", "2"]
    done = subprocess.run(
        [*command, "--rounds", "1", "--no-train", "--no-compile"], cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[2:]]
    assert [row[1] for row in rows] == ["torch, float32", "torch, bfloat16", "onnxruntime, float32"]
    assert all(float(row[2]) > 0 and float(row[3]) > 0 for row in rows)
    assert float(rows[0][4]) == 0 and 0 < float(rows[1][4]) < 0.5 and float(rows[2][4]) < 1e-3
