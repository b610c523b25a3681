"""The bars of measuring at scale, held by their scripts; long, and lengthened by whatever else a machine does."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(script, *arguments):
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_ten_times_the_images_take_no_more_than_one_and_a_half_times_the_memory():
    assert re.search(r"ratio (0\.\d+|1\.[0-4]\d), the bar is 1\.5", run("memory.py"))


@pytest.mark.slow
def test_no_page_takes_more_than_two_gigabytes():
    assert re.search(r"largest: \w+ with [01]\.\d+ GB, the bar is 2\.0", run("page_memory.py"))


@pytest.mark.slow
def test_a_million_rows_are_read_and_ranked_within_seconds():
    seconds = [float(text) for text in re.findall(r"([\d.]+) s of the processor", run("reading.py"))]
    assert seconds[1] < 5
    assert seconds[2] < 60


@pytest.mark.slow
def test_margins_agree_across_batch_sizes_and_thread_counts():
    assert "margins within 0.1%" in run("agreement.py", "digits/trades", "digits/rescaled", "--images", "60")
