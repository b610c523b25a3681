"""Grids of fits: what they hold, how they are kept, and that those shipped are found again."""

import re

import numpy as np
import pandas as pd
import pytest

from margincons.consistency import consistency
from margincons.detection import detection
from margincons.errors import LeakageError, MarginError, RecordError, UsageError
from margincons.pseudo_margin import TARGETS
from margincons.records import read_record, shipped_records
from margincons.studies.pseudo_margin_fits import PAPER_SIZE, designs, fit, judge, lesson, obtain_fits, scored

OPTIONS = {"norm": "Linf", "attack": "minimum_norm", "effort": "exhaustive", "records": ""}
QUICK = OPTIONS | {"effort": "fast", "n_images": 40, "n_fit": 12, "seeds": 1, "progress": False, "epsilon": 0.1}


@pytest.fixture(scope="module")
def trades():
    return lesson("digits/trades", "digits", splits=("train", "calibration"), **OPTIONS)


def test_the_designs_hold_every_input_target_and_loss_fewer_images_another_split_and_the_papers_size(trades):
    table = pd.DataFrame(designs(trades, seeds=5))
    assert not table.duplicated().any()
    assert (table.groupby(list(table.columns.drop("seed")))["seed"].nunique() == 5).all()
    whole = table[(table["n_fit"] == 797) & (table["width"] != PAPER_SIZE["width"])]
    ways = {tuple(way) for way in whole[["inputs", "loss", "target"]].to_numpy()}
    named = {("mse", target) for target in TARGETS} | {("ranking", "rank")}
    assert ways == {(inputs, *way) for inputs in ("features", "logits") for way in named}
    assert set(table[table["split"] == "calibration"]["n_fit"]) == {25, 50, 100, 200}
    assert {25, 50, 100, 200, 400, 797} == set(table[table["split"] == "train"]["n_fit"])
    assert (table["width"] == PAPER_SIZE["width"]).sum() == 5


def test_a_row_holds_what_consistency_and_detection_say_of_the_fit(trades):
    design = designs(trades, seeds=1)[0] | {"n_fit": 50, "width": 16, "depth": 1}
    row, table = judge(trades, design, epsilon=0.1), scored(trades, fit(trades, design))
    found = detection(table, epsilon=0.1, score="pseudo_margin", replicates=50)
    assert row["tau"] == consistency(table, score="pseudo_margin", replicates=50).tau.value
    assert (row["auroc"], row["aupr"], row["fpr95"]) == (found.auroc.value, found.aupr.value, found.fpr95.value)
    none_brittle = judge(trades, design, epsilon=0.0)
    assert none_brittle["tau"] == row["tau"]
    assert np.isnan([none_brittle[name] for name in ("auroc", "aupr", "fpr95")]).all()


def test_fits_are_kept_and_taken_again_and_other_settings_refused(tmp_path):
    options = QUICK | {"records": str(tmp_path)}
    first = obtain_fits("digits/mlp", "digits", **options)
    path = tmp_path / "pseudo_margin" / "digits" / "mlp" / "Linf" / "minimum_norm" / "shard-00000.parquet"
    before = path.stat().st_mtime_ns
    assert obtain_fits("digits/mlp", "digits", **options).equals(first)
    assert path.stat().st_mtime_ns == before
    assert first.attrs["settings"]["labelled"] == {"train": 12}
    assert set(first["n_fit"]) == {12}
    with pytest.raises(RecordError, match=r"epsilon=0\.2, it has 0\.1"):
        obtain_fits("digits/mlp", "digits", **options | {"epsilon": 0.2})
    shipped = QUICK | {"effort": "exhaustive", "out": str(tmp_path / "fits")}
    obtain_fits("digits/trades", "digits", **shipped)
    with pytest.raises(RecordError, match="images=41, it has 40"):
        obtain_fits("digits/trades", "digits", **shipped | {"n_images": 41})


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"effort": "fast"}, "effort='fast', it has 'exhaustive'"),
        ({"n_images": 100}, "n_images=100, it has None"),
        ({"n_fit": 50}, "n_fit=50, it has None"),
        ({"seed": 7}, "seed=7, it has 0"),
        ({"data": "cifar10"}, "data='cifar10/test', it has 'digits/test'"),
        ({"splits": ["train"]}, "splits=['train'], it has ['train', 'calibration']"),
    ],
)
def test_shipped_fits_of_something_else_than_is_asked_are_refused(asked, text):
    options = {"data": "digits", "epsilon": 0.1, "splits": ["train", "calibration"], **OPTIONS}
    assert len(obtain_fits("digits/rescaled", **options, device="cpu")) == 90
    with pytest.raises(RecordError, match=re.escape(text)):
        obtain_fits("digits/rescaled", **options | asked)


def test_no_grid_learns_from_test_images(tmp_path):
    with pytest.raises(LeakageError, match="got those of digits/test"):
        obtain_fits("digits/mlp", "digits", **QUICK | {"records": str(tmp_path), "splits": ["test"]})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(MarginError, match="pseudo_margin/digits/mlp"):
        obtain_fits("digits/mlp", "digits", **QUICK)


@pytest.mark.parametrize("records", ["", "runs"])
def test_an_epsilon_in_steps_of_255_is_refused_before_anything_is_measured(tmp_path, monkeypatch, records):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"did you mean 8/255\?"):
        obtain_fits("digits/mlp", "digits", **QUICK | {"records": records, "epsilon": 8.0})
    assert list(tmp_path.iterdir()) == []


FITS = [name for name in shipped_records() if name.startswith("pseudo_margin/")]


@pytest.mark.parametrize("name", FITS)
def test_shipped_fits_made_again_in_part_agree(name):
    table = read_record(name)
    settings = table.attrs["settings"]
    found = lesson(settings["model"], "digits", splits=settings["splits"], **OPTIONS)
    small = table[table["n_fit"] <= 200]
    for row in small.sample(3, random_state=0).to_dict("records"):
        again = judge(found, row, epsilon=settings["epsilon"])
        # Training magnifies the last digits in which two machines differ.
        assert again["tau"] == pytest.approx(row["tau"], abs=0.02)
        assert again["auroc"] == pytest.approx(row["auroc"], abs=0.02)


@pytest.mark.parametrize("name", FITS)
def test_shipped_fits_are_of_margins_that_ship_and_were_learned_without_test_images(name):
    table = read_record(name)
    settings = table.attrs["settings"]
    assert name == f"pseudo_margin/{settings['model']}/{settings['norm']}/{settings['attack']}"
    assert set(table["split"]) == set(settings["splits"]) <= {"train", "calibration"}
    judged = read_record(f"{settings['model']}/{settings['norm']}/{settings['attack']}").attrs["settings"]
    for key in ("weights_sha256", "data_sha256", "effort"):
        assert settings[key] == judged[key]
    assert table["tau"].between(-1, 1).all()
