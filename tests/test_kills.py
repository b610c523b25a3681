"""Killed measurements, resumed: the short form of `benchmarks/kills.py`, and the long one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "kills.py"


@pytest.mark.parametrize("runs", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_a_killed_measurement_loses_nothing_rewrites_nothing_and_leaves_nothing_behind(runs):
    command = [sys.executable, str(SCRIPT), "--runs", str(runs), "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    total, in_progress, in_writing = map(int, re.findall(r"(\d+) (?:runs|kills|of them)", done.stdout))
    assert total == runs
    assert in_progress >= in_writing >= runs / 4  # every other kill waits for a file that is being written
