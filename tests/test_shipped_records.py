"""Every record that ships, measured again in part: a seeded sample of its rows, within the stated tolerances."""

import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from margincons.errors import MissingColumnError, MissingFileError
from margincons.recorded import measure_again
from margincons.records import read_record, shipped_records
from margincons.statistics.metrics import kendall_tau

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"
INDEPENDENT = [name for name in shipped_records() if name.startswith("cifar10/")]
BUNDLED = [name for name in shipped_records() if name.startswith("digits/")]
MADE_OTHERWISE = ("benchmark/", "detector_attacks/", "pseudo_margin/", "scale/", "scores/", "shifts/", "training/")
SAMPLE = {"autoattack": 2, "fab_paper": 2, "fgsm-crown": 2}  # rows, of the slow ones; ten of the others


def sample(name, table, rows):
    return sorted(np.random.default_rng(zlib.crc32(name.encode())).choice(len(table), rows, replace=False))


def long_form(name):
    slow = name.endswith("autoattack") and not name.startswith("digits/mlp/")
    return pytest.param(name, marks=pytest.mark.slow) if slow else name


def test_every_shipped_record_is_measured_again_here_or_by_the_tests_of_what_made_it():
    others = [name for name in shipped_records() if name not in INDEPENDENT + BUNDLED]
    assert all(name.startswith(MADE_OTHERWISE) for name in others)
    assert len(INDEPENDENT) == 10
    assert len(BUNDLED) > 40


@pytest.mark.parametrize("name", shipped_records())
def test_a_shipped_record_says_how_it_was_made(name):
    about = read_record(name).attrs
    assert about["made"]["command"]
    assert about["made"]["versions"]["torch"]
    assert len(about["made"]["commit"].removesuffix("-dirty")) == 40
    if not name.startswith("benchmark/"):
        makers = {"pseudo_margin": "margincons fit ", "scale": "cost_runs.py "}
        makers |= {"detector_attacks": "attack_runs.py ", "scores": "score_runs.py ", "shifts": "shift_runs.py "}
        makers |= {"training": "training_runs.py "}
        assert about["made"]["command"].startswith(makers.get(name.split("/")[0], "margincons measure "))
        assert not about["made"]["commit"].endswith("-dirty")
    if not name.startswith(MADE_OTHERWISE):
        assert {"weights_sha256", "data_sha256", "seed", "batch_size", "norm", "attack", "effort"} <= set(
            about["settings"]
        )


@pytest.mark.parametrize("name", [long_form(name) for name in BUNDLED])
def test_a_sample_of_a_shipped_record_is_found_again(name):
    table, kind = read_record(name), name.rsplit("/", 1)[-1]
    rows = sample(name, table, min(SAMPLE.get(kind, 10), len(table)))
    column = {"autoattack": "success", "fgsm-crown": "lower"}.get(kind, "upper")
    again = measure_again(table, rows, column=column)
    assert again["index"].tolist() == table["index"].iloc[rows].tolist()
    if column == "success":
        assert (again["ratio"] == 1).all()
    else:  # on some rows the attack may take another path to a neighbouring minimum
        assert (again["ratio"].sub(1).abs() <= 1e-3).mean() >= 0.9
        assert again["ratio"].between(0.95, 1.05).all()


@pytest.mark.slow
def test_margins_of_all_bundled_networks_agree_within_the_stated_tolerances():
    names = [name for name in BUNDLED if name.endswith("Linf/minimum_norm")]
    tables = {name: read_record(name) for name in names}
    again = {name: measure_again(table, sample(name, table, 40)) for name, table in tables.items()}
    off = pd.concat(again)["ratio"].sub(1).abs()
    assert (off <= 1e-3).mean() >= 0.99
    for name, table in tables.items():
        score = table.set_index("index").loc[again[name]["index"], "logit_margin"]
        assert kendall_tau(again[name]["live"], score) == pytest.approx(
            kendall_tau(again[name]["recorded"], score), abs=0.002
        ), name


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="independent networks are not on this machine")
@pytest.mark.parametrize("name", INDEPENDENT)
def test_margins_of_independent_networks_agree_within_the_stated_tolerances(name):
    table = read_record(name)
    again = measure_again(table, sample(name, table, 50), folder=DATA)
    assert (again["ratio"].sub(1).abs() <= 1e-3).mean() >= 0.99
    assert kendall_tau(again["live"], table["logit_margin"].iloc[again["index"]]) == pytest.approx(
        kendall_tau(again["recorded"], table["logit_margin"].iloc[again["index"]]), abs=0.002
    )


def test_measuring_again_asks_for_the_folder_and_for_columns_that_exist():
    table = read_record(INDEPENDENT[0])
    with pytest.raises(MissingFileError, match=r"file of images at nowhere/cifar10_test_first1017\.npz"):
        measure_again(table, [0], folder="nowhere")
    with pytest.raises(MissingColumnError, match="Expected a column 'lower'"):
        measure_again(table, [0], column="lower")


def test_a_failure_found_again_counts_as_agreement_and_a_lost_one_does_not():
    table = read_record("digits/mlp/Linf/autoattack").head(1)
    table.attrs["settings"] = table.attrs["settings"] | {"attack": "fgsm", "epsilon": 1e-6}
    table["success"] = False
    assert measure_again(table, [0], column="success")["ratio"].tolist() == [1.0]
    table["success"], table["upper"] = True, 0.05
    assert measure_again(table, [0], column="success")["ratio"].tolist() == [0.0]
    assert np.isinf(measure_again(table, [0])["ratio"]).all()
