"""The commands of the detector, from images to a table."""

import filecmp

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from margincons import load_images, read_record
from margincons.cli import main

CALIBRATE = ["calibrate", "digits/trades", "--data", "digits", "--epsilon", "0.1", "--miss-rate", "0.2"]


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_calibrate_measures_and_writes_a_detector_that_detect_runs(tmp_path, capsys):
    measured = [*CALIBRATE, "--effort", "fast", "--limit", "60", "--out", "new/d.safetensors", "--device", "cpu"]
    assert main(measured) == 0
    out = capsys.readouterr().out
    assert out.startswith("new/d.safetensors: flags scores <= ")
    assert "at most 20% of the brittle images pass on average over calibrations (" in out
    assert out.endswith("; brittle means Linf margin <= 0.1\n")
    assert (tmp_path / "runs/digits/trades/Linf/minimum_norm/shard-00000.parquet").exists()
    assert main(["detect", "new/d.safetensors", "digits/trades", "--data", "digits", "--limit", "30"]) == 0
    out = capsys.readouterr().out
    table = pd.read_csv("runs/detect/detected.csv")
    counts = table["decision"].value_counts()
    assert out == (
        f"runs/detect/detected.csv: 30 images, {', '.join(f'{n} {name}' for name, n in counts.items())}; "
        "the most brittle in runs/detect/most_brittle.png\n"
    )
    assert (tmp_path / "runs/detect/most_brittle.png").exists()


def test_a_record_and_a_false_alarm_rate_make_three_decisions(capsys):
    record = ["--record", "digits/trades/Linf/minimum_norm", "--false-alarm-rate", "0.1"]
    assert main([*CALIBRATE, *record, "--out", "d.safetensors", "--score", "entropy"]) == 0
    assert "calls brittle at most 10% of the robust ones" in capsys.readouterr().out
    assert main(["detect", "d.safetensors", "digits/trades", "--data", "digits", "--out", "here", "--worst", "3"]) == 0
    assert set(pd.read_csv("here/detected.csv")["decision"]) == {"brittle", "robust", "undecided"}


def test_another_norm_than_the_records_is_refused(tmp_path, capsys):
    for norm, code in (("Linf", 0), ("L2", 2)):
        assert main([*CALIBRATE, "--record", "digits/trades/Linf/minimum_norm", "--norm", norm]) == code
    assert "Expected a record of margins in L2, got one in Linf." in capsys.readouterr().err


def calibrated():
    assert main([*CALIBRATE, "--record", "digits/trades/Linf/minimum_norm", "--out", "d.safetensors"]) == 0


def test_images_without_labels_are_decided_on_as_those_with_labels_are():
    calibrated()
    np.savez("mine.npz", x=load_images("digits").inputs.numpy())
    for data in ("digits", "mine.npz"):
        assert main(["detect", "d.safetensors", "digits/trades", "--data", data, "--out", data.partition(".")[0]]) == 0
    assert filecmp.cmp("digits/detected.csv", "mine/detected.csv", shallow=False)


def test_measuring_and_calibrating_still_ask_for_labels(capsys):
    np.savez("mine.npz", x=load_images("digits").inputs.numpy())
    for command in (["measure", "digits/trades", "--data", "mine.npz"], [*CALIBRATE, "--data", "mine.npz"]):
        assert main(command) == 2
        assert "arrays x (images) and y (labels), got arrays x." in capsys.readouterr().err


def test_pictures_with_an_alpha_channel_are_counted_in_one_line(tmp_path, capsys):
    calibrated()
    for row, image in enumerate(load_images("digits", n=3).inputs):
        grey = (255 * image[0].numpy()).astype(np.uint8)
        save = grey if row == 0 else np.stack([grey, 255 - grey], axis=-1)
        (tmp_path / "mine").mkdir(exist_ok=True)
        Image.fromarray(save).save(tmp_path / "mine" / f"{row}.png")
    assert main(["detect", "d.safetensors", "digits/trades", "--data", "mine"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "margincons: TransparencyWarning: 2 of 3 pictures have an alpha channel, the first mine/1.png;"
    )


def test_a_pseudo_margin_is_fitted_calibrated_saved_and_run(capsys):
    record = "digits/trades/Linf/minimum_norm"
    learn = ["--score", "pseudo_margin", "--train", f"{record}-train"]
    assert main([*CALIBRATE, *learn, "--record", f"{record}-calibration", "--split", "calibration"]) == 0
    assert main(["detect", "detector.safetensors", "digits/trades", "--data", "digits", "--worst", "3"]) == 0
    table = pd.read_csv("runs/detect/detected.csv").set_index("image")  # aligned below
    assert table["pseudo_margin"].corr(read_record(record)["upper"].clip(upper=1), method="kendall") > 0.5
    assert main([*CALIBRATE, *learn[:-1], f"{record}-calibration", "--split", "calibration"]) == 2
    assert "200 of 200 are among those of digits/calibration" in capsys.readouterr().err


def test_where_results_cannot_go_is_said_before_anything_is_measured(tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    assert main([*CALIBRATE, "--out", "folder"]) == 2
    assert "Expected folder to be the file of the detector, it is a folder." in capsys.readouterr().err
    assert main([*CALIBRATE, "--out", "file/d.safetensors"]) == 2
    assert "Expected to write the file of the detector to file/d.safetensors, cannot: " in capsys.readouterr().err
    assert main(["detect", "d.safetensors", "digits/trades", "--data", "digits", "--out", "file"]) == 2
    assert "Expected file to be the folder of the results, it is a file." in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "kept"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--miss-rate", "1.5", "between 0 and 1"),
        ("--score", "nosuch", "Unknown score"),
        ("--epsilon", "8", "8/255"),
        ("--norm", "Linff", "Unknown norm"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_measured(option, value, told, tmp_path, capsys):
    assert main([*CALIBRATE, option, value]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
