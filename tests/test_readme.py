"""The README's lines of Python do what the text around them says."""

import re
from pathlib import Path

import pytest
import torch

from margincons import Detector, cli, load_images
from margincons.data.pictures import CROPPED, RESIZED

README = Path(__file__).parents[1] / "README.md"


def numbers(texts):
    return [float(text) for text in texts]


def test_the_lines_run_one_after_the_other_in_one_session(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    here = [block for block in blocks if "dask" not in block]
    assert len(here) == 2
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in here:
        exec(compile(block, README.name, "exec"), names)
    tau, auroc = capsys.readouterr().out.splitlines()
    for estimate in (tau, auroc):
        assert re.fullmatch(r"\.\d\d \[\.\d\d, \.\d\d\]", estimate)
    told = re.findall(r"\.\d\d(?=[ ,\]])", "".join(re.findall(r"^print.*#(.*)$", here[0], flags=re.MULTILINE)))
    assert numbers(told) == pytest.approx(numbers(re.findall(r"\.\d\d", tau + auroc)), abs=0.011)
    assert names["flagged"].dtype == torch.bool
    assert names["flagged"].shape == (600,)
    assert names["flagged"].sum() == pytest.approx(
        float(re.search(r"; (\d+) of 600$", here[1], re.MULTILINE)[1]), abs=6
    )
    again = Detector.load("detector.safetensors", names["model"])
    assert again.thresholds == names["detector"].thresholds
    assert again.thresholds.miss_rate == 0.1  # one in ten


def test_the_rule_by_which_pictures_are_resized_is_told_wherever_a_folder_is(capsys):
    try:
        cli.main(["measure", "--help"])
    except SystemExit:
        told = capsys.readouterr().out
    for text in (README.read_text(encoding="utf-8"), load_images.__doc__, told):
        words = " ".join(text.split())
        assert "pictures are read in three channels" in words
        assert (
            f"as they are {'if' if text is told else 'where'} all have one size of at most {CROPPED} x {CROPPED}"
            in words
        )
        assert re.search(rf"resized to {RESIZED}\b.*? cropped to (the )?{CROPPED} x {CROPPED}", words)
        assert re.search(r"[aA]n \.npz keeps any shape", words)
