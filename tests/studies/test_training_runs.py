"""Studies of trained networks: what a row holds, how they resume, and that the shipped ones are found again."""

import numpy as np
import pandas as pd
import pytest

from margincons.certificates import lower_bounds
from margincons.consistency import consistency
from margincons.data import load_images
from margincons.detection import detection
from margincons.errors import RecordError
from margincons.margins import input_margins
from margincons.records import read_record, shipped_records
from margincons.studies import training_runs
from margincons.studies.training_runs import (
    EPSILON,
    STUDIES,
    Study,
    images_of,
    main,
    measured,
    run,
    summary,
    terminal_phase,
    trained,
)
from margincons.zoo import load_model, state_sha256
from margincons.zoo.recipes import RECIPES

NUMBERS = ("train_accuracy", "train_robust_accuracy", "interval", "crown", "variability", "duality", "complexity")
SHIPPED = [name for name in shipped_records() if name.startswith("training/")]


@pytest.fixture(scope="module")
def mlp():
    return measured(load_model("digits/mlp"))


@pytest.fixture
def brief(monkeypatch):
    """A study of untrained networks; of each only the weights are looked at."""
    monkeypatch.setitem(
        STUDIES,
        "brief",
        Study(recipes={name: RECIPES[name] for name in ("digits/mlp", "digits/standard")}, epochs=(0,)),
    )
    rows = {"upper": np.ones(3, dtype=np.float32), "crown": np.nan}
    monkeypatch.setattr(training_runs, "measured", lambda model, **_: {"weights_sha256": state_sha256(model), **rows})


def test_a_row_holds_what_the_attack_and_the_certificates_say(mlp):
    model, test, train = load_model("digits/mlp"), load_images("digits"), load_images("digits", split="train")
    assert mlp["weights_sha256"] == state_sha256(model)
    bounds = input_margins(model, test.inputs)
    assert mlp["predicted"].tolist() == bounds.predicted.tolist()
    assert mlp["upper"] == pytest.approx(bounds.upper.numpy(), rel=1e-6)
    on_training = input_margins(model, train.inputs)
    right = on_training.predicted == train.labels
    assert mlp["train_accuracy"] == pytest.approx(right.float().mean().item())
    assert mlp["train_robust_accuracy"] == pytest.approx((right & (on_training.upper > EPSILON)).float().mean().item())
    lower = lower_bounds(model, test.inputs, method="interval").numpy()
    assert mlp["interval"] == pytest.approx((lower / bounds.upper.double().numpy()).mean(), rel=0.02)
    assert mlp["interval"] < mlp["crown"] < 1


def test_the_summary_is_that_of_consistency_and_detection(mlp):
    row = {"recipe": "digits/mlp", "seed": 0, "epoch": 80, **mlp}
    found = summary(pd.DataFrame([row]), epsilon=0.12).iloc[0]
    table = images_of(pd.Series(row))
    assert found["tau"] == consistency(table).tau.value
    assert found["auroc"] == detection(table, epsilon=0.12).auroc.value
    correct = (table["label"] == table["predicted"]).to_numpy()
    assert found["accuracy"] == correct.mean()
    assert found["robust_accuracy"] == (correct & (table["upper"] > 0.12)).mean()
    assert found["gap"] == pytest.approx(mlp["train_robust_accuracy"] - (correct & (table["upper"] > EPSILON)).mean())
    assert found["variability"] == mlp["variability"]
    assert np.isnan(summary(pd.DataFrame([row]), epsilon=0.0).iloc[0]["auroc"])  # no image is brittle


def test_a_study_goes_on_where_it_stopped_and_is_extended_by_seeds(tmp_path, brief, monkeypatch):
    first = run("brief", tmp_path, seeds=1, progress=False)
    paths = sorted((tmp_path / "training" / "brief").glob("*"))
    assert [path.name for path in paths] == ["shard-00000.parquet", "shard-00001.parquet"]
    assert first[["recipe", "seed", "epoch"]].to_numpy().tolist() == [["digits/mlp", 0, 0], ["digits/standard", 0, 0]]
    paths[1].unlink()
    before = paths[0].stat().st_mtime_ns
    whole = run("brief", tmp_path, seeds=2, progress=False)
    assert paths[0].stat().st_mtime_ns == before
    assert whole["index"].tolist() == [0, 1, 2, 3]
    assert whole.head(2)["weights_sha256"].tolist() == first["weights_sha256"].tolist()
    assert whole["weights_sha256"].nunique() == 4
    monkeypatch.setattr(training_runs, "measured", lambda *_, **__: pytest.fail("measured again"))
    run("brief", tmp_path, seeds=2, progress=False)
    monkeypatch.setattr(training_runs, "EPSILON", 0.2)
    with pytest.raises(RecordError, match=r"epsilon=0\.2, it has 0\.1"):
        run("brief", tmp_path, seeds=2, progress=False)


def test_the_command_writes_a_record(tmp_path, brief, capsys):
    main(["brief", str(tmp_path), "--seeds", "1"])
    assert "training/brief: 2 networks" in capsys.readouterr().out
    assert len(read_record(tmp_path / "training" / "brief")) == 2


def test_what_is_left_out_of_the_study_is_trained_as_another_recipe_is():
    left_out = set(RECIPES) - set(STUDIES["seeds"].recipes)
    assert left_out == {"digits/rescaled", "digits/masked"}
    for name, same in (("digits/rescaled", "digits/pgd_at"), ("digits/masked", "digits/standard")):
        for setting in ("loss", "architecture", "epsilon", "epochs", "max_lr"):
            assert getattr(RECIPES[name], setting) == getattr(RECIPES[same], setting)


def test_the_terminal_phase_begins_where_no_training_image_is_wrong_any_more():
    accuracies = {0: [0.5, 1.0, 0.9, 1.0, 1.0], 1: [0.5, 0.6, 1.0, 1.0, 1.0], 2: [0.5, 1.0, 1.0, 1.0, 0.99]}
    table = pd.DataFrame(
        [
            {"recipe": "r", "seed": seed, "epoch": 2**place, "train_accuracy": accuracy}
            for seed, column in accuracies.items()
            for place, accuracy in enumerate(column)
        ]
    )
    found = terminal_phase(table.sample(frac=1, random_state=0))
    assert found["r", 0] == 8
    assert found["r", 1] == 4
    assert np.isnan(found["r", 2])


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_study_is_whole(name):
    table, study = read_record(name), STUDIES[name.removeprefix("training/")]
    seeds, epochs = table["seed"].nunique(), study.epochs or (None,)
    assert seeds >= (1 if study.epochs else 2)
    assert len(table) == len(study.recipes) * seeds * len(epochs)
    assert not table["weights_sha256"][table["epoch"] > 0].duplicated().any()  # untrained, recipes are the same
    if study.epochs:
        assert (table.groupby(["recipe", "seed"])["epoch"].agg(tuple) == study.epochs).all()
    assert table.attrs["settings"] == training_runs.settings_of(study=name.removeprefix("training/"))


def agrees(row, again):
    """Training magnifies the last digits in which two machines differ."""
    first, second = (summary(pd.DataFrame([one])).iloc[0] for one in (row, row.to_dict() | again))
    for number in ("tau", "auroc", "accuracy", "robust_accuracy", "train_accuracy", "train_robust_accuracy"):
        assert second[number] == pytest.approx(first[number], abs=0.04, nan_ok=True), number


@pytest.mark.parametrize("name", SHIPPED)
def test_an_early_network_of_a_shipped_study_is_trained_and_measured_again(name):
    table, study = read_record(name), name.removeprefix("training/")
    recipe = next(iter(STUDIES[study].recipes))
    if STUDIES[study].epochs:
        row = table[(table["recipe"] == recipe) & (table["epoch"] == 2)].iloc[0]
        model = dict(training_runs.checkpoints(recipe, (2,), seed=int(row["seed"])))[2]
    else:
        row = table[(table["recipe"] == recipe) & (table["seed"] == 1)].iloc[0]
        ((_, model),) = trained(study, recipe, 1)
    agrees(row, measured(model, certified=False))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["digits/pgd_at", "digits/mlp", "digits/ibp"])
def test_a_network_of_the_shipped_study_is_trained_and_measured_again(recipe):
    table = read_record("training/seeds")
    row = table[(table["recipe"] == recipe) & (table["seed"] == 2)].iloc[0]
    ((_, model),) = trained("seeds", recipe, 2)
    again = measured(model)
    agrees(row, again)
    for number in NUMBERS:
        assert again[number] == pytest.approx(row[number], rel=0.2, abs=0.02), number
