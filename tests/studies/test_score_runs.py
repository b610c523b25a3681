"""Records of scores: made once, joined with the right margins only, and shipped ones found again."""

import json
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from margincons.data import load_images
from margincons.errors import RecordError, UsageError
from margincons.recorded import obtain
from margincons.records import read_record, shipped_records
from margincons.statistics.metrics import kendall_tau
from margincons.studies.score_jobs import CERTIFIED, SCORED, Settings
from margincons.studies.score_runs import (
    BUNDLED,
    clever_again,
    costs_of,
    main,
    obtain_scores,
    score_again,
    scored_and_known,
    with_scores,
)

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
FEW = Settings(votes=10, clever_batches=2, clever_samples=2)
SHIPPED = [name for name in shipped_records() if name.startswith("scores/")]
INDEPENDENT = [name for name in SHIPPED if name.startswith("scores/cifar10/")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("scores")
    obtain_scores("digits/mlp", "digits", limit=12, out=out, settings=FEW)
    return out


def test_a_record_that_is_there_is_taken_and_other_settings_are_refused(folder):
    (path,) = folder.rglob("*.parquet")
    before = path.stat().st_mtime_ns
    table = obtain_scores("digits/mlp", "digits", limit=12, out=folder, settings=FEW)
    assert path.stat().st_mtime_ns == before
    assert len(table) == 12
    with pytest.raises(RecordError, match="votes=11"):
        obtain_scores("digits/mlp", "digits", limit=12, out=folder, settings=replace(FEW, votes=11))
    assert len(obtain_scores("digits/trades", "digits", limit=3, settings=Settings())) == 3
    with pytest.raises(RecordError, match="votes=11, it has 500"):
        obtain_scores("digits/trades", "digits", settings=Settings(votes=11))


def test_costs_are_in_forward_passes_and_count_what_was_paid_once(folder):
    costs = costs_of(obtain_scores("digits/mlp", "digits", limit=12, out=folder, settings=FEW))
    assert list(costs.columns) == ["forward", "backward", "time", "once"]
    assert costs.loc["clever"].tolist()[:2] == [5, 36]
    assert costs["time"].drop(list(CERTIFIED))[costs["forward"] == 1].median() < 10
    assert costs.loc["neighbour_distance", "once"] == 797
    assert costs.loc["logit_margin", "once"] == 0


def test_scores_are_joined_with_margins_of_the_same_network_only(folder):
    scores = obtain_scores("digits/mlp", "digits", limit=12, out=folder, settings=FEW)
    margins = obtain("digits/mlp", "digits", norm="Linf", attack="minimum_norm", records="", effort="exhaustive")
    both = with_scores(margins, scores)
    assert both["upper"].tolist() == margins["upper"].head(12).tolist()
    assert both["logit_margin"].tolist() == pytest.approx(margins["logit_margin"].head(12).tolist(), rel=1e-4)
    with pytest.raises(RecordError, match="of one network on one data set"):
        with_scores(
            obtain("digits/trades", "digits", norm="Linf", attack="minimum_norm", records="", effort="exhaustive"),
            scores,
        )
    turned = scores.assign(predicted=scores["predicted"] + 1)
    turned.attrs = scores.attrs
    with pytest.raises(RecordError, match="12 of 12 differ"):
        with_scores(margins, turned)


def test_clever_of_a_record_comes_again_with_what_became_of_its_fits(folder):
    table = obtain_scores("digits/mlp", "digits", limit=12, out=folder, settings=FEW)
    found = clever_again(table, [3, 7])
    assert found.distance.tolist() == pytest.approx(table["clever"].iloc[[3, 7]].tolist(), rel=1e-4)
    assert found.at_limit.shape == (2, 9)


def test_images_to_learn_from_are_never_those_that_are_scored(tmp_path):
    scored, known = scored_and_known("digits", 30)
    assert (scored.name, known.name, len(scored)) == ("digits/test", "digits/train", 30)
    stored = load_images("digits", n=50)
    path = tmp_path / "mine.npz"
    np.savez(path, x=stored.inputs.numpy(), y=stored.labels.numpy())
    scored, known = scored_and_known(str(path), 30)
    assert (known.name, len(scored), len(known)) == ("mine from 30/calibration", 30, 20)
    assert (known.inputs == stored.inputs[30:]).all()
    for limit in (None, 50):
        with pytest.raises(UsageError, match="Expected a limit below 50"):
            scored_and_known(str(path), limit)


def test_the_command_measures_what_it_is_told_and_says_so(tmp_path, capsys):
    main(["digits/mlp", "--limit", "3", "--clever-samples", "1", "--out", str(tmp_path)])
    assert capsys.readouterr().out == f"digits/mlp: 3 images, {len(SCORED)} scores\n"
    (path,) = tmp_path.rglob("*.parquet")
    assert json.loads(json.dumps(read_record(path).attrs["settings"]))["clever_samples"] == 1


def test_the_book_has_the_scores_of_five_bundled_and_five_independent_networks():
    assert len(SHIPPED) == 10
    assert {f"scores/{name}/Linf/every_score" for name in BUNDLED} <= set(SHIPPED)


def agree(table, rows, again):
    """Scores of some images against the record's, each within a hundredth of its range on nearly all of them."""
    assert again["index"].tolist() == table["index"].iloc[rows].tolist()
    for name in table.attrs["made"]["costs"]:
        recorded, live = table[name].to_numpy()[rows], again[name].to_numpy()
        finite = np.isfinite(recorded)
        assert (live[~finite] == recorded[~finite]).all(), name  # no vote at all is no vote again
        off = np.abs(live[finite] - recorded[finite])
        assert (off <= 0.01 * np.ptp(table[name][np.isfinite(table[name])])).mean() >= 0.9, name
        if len(set(recorded)) > 1:
            assert kendall_tau(live, recorded) > 0.9, name


@pytest.mark.parametrize("name", [BUNDLED[0], *(pytest.param(name, marks=pytest.mark.slow) for name in BUNDLED[1:])])
def test_a_sample_of_the_bundled_networks_scores_is_found_again(name):
    table = obtain_scores(name, "digits")
    rows = sorted(np.random.default_rng(zlib.crc32(name.encode())).choice(len(table), 8, replace=False))
    agree(table, rows, score_again(table, rows))


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="independent networks are not on this machine")
@pytest.mark.parametrize(
    "name", [INDEPENDENT[0], *(pytest.param(name, marks=pytest.mark.slow) for name in INDEPENDENT[1:])]
)
def test_a_sample_of_the_independent_networks_scores_is_found_again(name):
    table = read_record(name)
    assert table.attrs["settings"]["images"] == len(table) == 400
    rows = sorted(np.random.default_rng(zlib.crc32(name.encode())).choice(len(table), 8, replace=False))
    agree(table, rows, score_again(table, rows, folder=DATA))


def test_other_images_than_those_of_the_record_are_refused(folder):
    table = obtain_scores("digits/mlp", "digits", limit=12, out=folder, settings=FEW)
    table.attrs["settings"] = table.attrs["settings"] | {"data_sha256": "0" * 64}
    with pytest.raises(RecordError, match="the record was measured on, those of digits/test changed"):
        score_again(table, [0])


def test_time_is_counted_in_free_scores_and_certificates_are_not_among_them():
    spent = {"logit_margin": 1.0, "entropy": 3.0, CERTIFIED[0]: 500.0, CERTIFIED[1]: 500.0}
    scores = pd.DataFrame()
    scores.attrs["made"] = {"costs": {s: {"forward": 1, "backward": 0, "seconds": t} for s, t in spent.items()}}
    assert costs_of(scores)["time"].tolist() == [0.5, 1.5, 250.0, 250.0]
