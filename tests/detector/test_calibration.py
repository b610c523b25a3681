import dataclasses
import warnings

import numpy as np
import pytest
import torch

from margincons import Classifier, Detector, load_images, load_model, measure, read_record
from margincons.cautions import Caution, NoHeadWarning
from margincons.detector.calibration import calibrate_detector
from margincons.errors import LeakageError, RecordError, SharedImagesError, UsageError
from margincons.labelled_margins import labelled_margins
from margincons.pseudo_margin import fit_pseudo_margin
from margincons.records import write_shard

RECORD = "digits/trades/Linf/minimum_norm"


def test_a_record_and_its_columns_calibrate_alike():
    found = calibrate_detector("digits/trades", "digits", epsilon=0.1, record=RECORD, limit=400, device="cpu")
    margins = read_record(RECORD)["upper"].to_numpy()[:400]
    images = load_images("digits", n=400).inputs
    by_hand = Detector.calibrate(load_model("digits/trades"), images, margins=margins, epsilon=0.1)
    assert found.thresholds == by_hand.thresholds
    assert found.thresholds.n_brittle + found.thresholds.n_robust == 400


def test_of_a_record_that_lacks_a_shard_the_first_images_are_those_it_has_of_them(tmp_path):
    table = read_record(RECORD)
    settings, made = (table.attrs[name] for name in ("settings", "made"))
    for place in (0, 1, 3):  # shard 2 is missing
        rows = table.iloc[50 * place : 50 * (place + 1)]
        write_shard(tmp_path / "runs" / f"shard-{place:05d}.parquet", rows, settings, made)
    found = calibrate_detector("digits/trades", "digits", epsilon=0.1, record=f"{tmp_path}/runs", limit=160)
    kept = table[table["index"].isin([*range(100), *range(150, 160)])]
    images = load_images("digits").inputs[torch.tensor(kept["index"].tolist())]
    by_hand = Detector.calibrate(load_model("digits/trades"), images, margins=kept["upper"].to_numpy(), epsilon=0.1)
    assert found.thresholds == by_hand.thresholds


def test_without_a_record_margins_are_measured_into_one_and_taken_from_it_again(tmp_path):
    options = {"epsilon": 0.2, "effort": "fast", "limit": 60, "records": tmp_path, "norm": "L2", "device": "cpu"}
    found = calibrate_detector("digits/mlp", "digits", miss_rate=0.5, **options | {"epsilon": 1.0})
    (shard,) = tmp_path.rglob("shard-*.parquet")
    written = shard.stat().st_mtime_ns
    again = calibrate_detector("digits/mlp", "digits", miss_rate=0.5, **options | {"epsilon": 1.0})
    assert shard.stat().st_mtime_ns == written
    assert dataclasses.asdict(again.thresholds) == dataclasses.asdict(found.thresholds)
    by_record = calibrate_detector("digits/mlp", "digits", miss_rate=0.5, epsilon=1.0, record=str(shard.parent))
    assert (by_record.norm, by_record.thresholds) == ("L2", found.thresholds)
    common = {"miss_rate": 0.5, "epsilon": 1.01, "record": str(shard.parent)}  # no radius in Linf
    assert calibrate_detector("digits/mlp", "digits", norm="L2", **common).norm == "L2"
    with pytest.raises(RecordError, match=r"Expected a record of margins in L1, got one in L2\."):
        calibrate_detector("digits/mlp", "digits", norm="L1", **common)


def test_the_calibration_split_is_another_set_of_images():
    found = calibrate_detector(
        "digits/trades", "digits", epsilon=0.1, record=f"{RECORD}-calibration", split="calibration"
    )
    assert found.thresholds.n_brittle + found.thresholds.n_robust == 200


def test_an_attack_with_a_budget_calibrates_at_that_budget_only():
    record = "digits/trades/Linf/autoattack"
    table = read_record(record)
    assert (table.attrs["settings"]["attack"], table.attrs["settings"]["epsilon"]) == ("autoattack", 0.1)
    found = calibrate_detector("digits/trades", "digits", epsilon=0.1, record=record, device="cpu")
    assert found.thresholds.n_brittle == int(table["success"].sum())
    for epsilon in (0.05, 0.2):
        with pytest.raises(RecordError) as caught:
            calibrate_detector("digits/trades", "digits", epsilon=epsilon, record=record, device="cpu")
        assert f"who is brittle at {epsilon}, got autoattack with a budget of 0.1" in str(caught.value)


CALM = {"record": f"{RECORD}-calibration"}
LEARNED = {"score": "pseudo_margin", "train": f"{RECORD}-train", "split": "calibration"}


def test_a_pseudo_margin_is_fitted_to_other_images_and_kept_in_the_detectors_file(tmp_path):
    found = calibrate_detector("digits/trades", "digits", epsilon=0.1, **CALM, **LEARNED)
    found.save(tmp_path / "d.safetensors")
    model, test = load_model("digits/trades"), load_images("digits")
    classifier = Classifier(model, test.inputs[:2])
    labelled = labelled_margins(classifier, read_record(f"{RECORD}-train"), load_images("digits", split="train"))
    score, known = fit_pseudo_margin(labelled), load_images("digits", split="calibration")
    margins = read_record(f"{RECORD}-calibration")["upper"].to_numpy()
    by_hand = Detector.calibrate(model, known.inputs, margins=margins, epsilon=0.1, score=score)
    assert (found.scorer.name, found.thresholds) == ("pseudo_margin", by_hand.thresholds)
    for one in (found, Detector.load(tmp_path / "d.safetensors", load_model("digits/trades"))):
        assert torch.equal(one.scores(test.inputs), by_hand.scores(test.inputs))
    assert torch.allclose(found.scores(test.inputs), score(classifier(test.inputs)), atol=1e-5)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Sixty images to learn from and sixty others, in files of one's own, the first measured."""
    monkeypatch.chdir(tmp_path)
    images = load_images("digits", n=120)
    for name, part in (("train", slice(60)), ("mine", slice(60, 120)), ("mixed", slice(58, 118))):
        np.savez(f"{name}.npz", x=images.inputs[part].numpy(), y=images.labels[part].numpy())
    measure("digits/trades", "train.npz", out="runs/train", effort="fast", device="cpu", progress=False)
    return {"model_id": "digits/trades", "epsilon": 0.1, "miss_rate": 0.4, "score": "pseudo_margin"} | {
        "train": "runs/train",
        "train_data": "train.npz",
        "device": "cpu",
        "effort": "fast",
    }


def test_files_of_ones_own_are_learned_from_by_name_and_never_calibrated_on(own, tmp_path):
    with pytest.raises(UsageError, match=r"it says that they were called train, not where they are\."):
        calibrate_detector(data="mine.npz", **own | {"train_data": None})
    for data, shared in (("train.npz", 60), ("mixed.npz", 2)):
        with pytest.raises(SharedImagesError) as caught:
            calibrate_detector(data=data, **own)
        assert f"was not fitted on, {shared} of 60 are among those of train that it was" in str(caught.value)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["train"]  # nothing was measured
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Caution)  # so little to learn from may flag everything
        found = calibrate_detector(data="mine.npz", **own)
    assert (found.scorer.name, found.thresholds.n_brittle + found.thresholds.n_robust) == ("pseudo_margin", 60)


def test_a_network_without_a_head_learns_from_its_logits(own, tmp_path):
    (tmp_path / "nets.py").write_text(
        "from margincons import load_model\nfrom torch import nn\n"
        "class Bent(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.inner = load_model('digits/trades')\n"
        "    def forward(self, x):\n        return self.inner(x).sinh()\n"
        "def bent():\n    return Bent()\n"
    )
    with pytest.warns(NoHeadWarning):
        measure("nets.py:bent", "train.npz", out="runs/bent", effort="fast", device="cpu", progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Caution)
        options = own | {"model_id": "nets.py:bent", "train": "runs/bent"}
        found = calibrate_detector(data="mine.npz", **options)
    assert found.scorer.centre.shape == (10,)


def test_a_randomised_network_is_refused_before_its_margins_are_measured(tmp_path):
    (tmp_path / "nets.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Noisy(nn.Module):\n"
        "    def forward(self, x):\n        return torch.rand(len(x), 10)\n"
        "def noisy():\n    return Noisy()\n"
    )
    with pytest.raises(UsageError, match="gives the same logits twice, two passes differ"):
        calibrate_detector(f"{tmp_path}/nets.py:noisy", "digits", epsilon=0.1, limit=20, records=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"score": "pseudo_margin"}, UsageError, "The score 'pseudo_margin' is learned: name a record of training"),
        ({"train": f"{RECORD}-train"}, UsageError, "The score 'logit_margin' is not learned: it takes no record"),
        (LEARNED | {"train": RECORD, "split": "test"}, LeakageError, "got those of digits/test;"),
        (
            LEARNED | CALM | {"train": f"{RECORD}-calibration"},
            SharedImagesError,
            "was not fitted on, 200 of 200 are among those of digits/calibration that it was",
        ),
        (
            LEARNED | CALM | {"train": "digits/pgd_at/Linf/minimum_norm-train"},
            RecordError,
            "digits/pgd_at; got other weights.",
        ),
        (
            LEARNED | {"norm": "L2"},
            RecordError,
            "Expected margins in L2 to fit to, as those to calibrate on, got Linf.",
        ),
        ({"split": "train"}, UsageError, "Expected calibration images that the network was not trained on"),
        ({"record": "digits/mart/Linf/minimum_norm"}, RecordError, "digits/mart; got other weights."),
        ({"record": f"{RECORD}-calibration"}, RecordError, "measured on, digits/calibration; got others."),
        ({"record": f"{RECORD}-train"}, RecordError, "measured on, digits/train; got others."),
    ],
)
def test_margins_of_other_images_or_networks_calibrate_nothing(options, error, text):
    with pytest.raises(error) as caught:
        calibrate_detector(
            "digits/trades", "digits", epsilon=0.1, **({} if "norm" in options else {"record": RECORD}) | options
        )
    assert text in str(caught.value)
