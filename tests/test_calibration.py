import dataclasses

import pytest

from margincons import Detector, load_images, load_model, read_record
from margincons.calibration import calibrate_detector
from margincons.errors import RecordError, UsageError

RECORD = "digits/trades/Linf/minimum_norm"


def test_a_record_and_its_columns_calibrate_alike():
    found = calibrate_detector("digits/trades", "digits", epsilon=0.1, record=RECORD, limit=400, device="cpu")
    margins = read_record(RECORD)["upper"].to_numpy()[:400]
    images = load_images("digits", n=400).inputs
    by_hand = Detector.calibrate(load_model("digits/trades"), images, margins=margins, epsilon=0.1)
    assert found.thresholds == by_hand.thresholds
    assert found.thresholds.n_brittle + found.thresholds.n_robust == 400


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


def test_the_calibration_split_is_another_set_of_images():
    found = calibrate_detector(
        "digits/trades", "digits", epsilon=0.1, record=f"{RECORD}-calibration", split="calibration"
    )
    assert found.thresholds.n_brittle + found.thresholds.n_robust == 200


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"split": "train"}, UsageError, "Expected calibration images that the network was not trained on"),
        ({"record": "digits/mart/Linf/minimum_norm"}, RecordError, "digits/mart; got other weights."),
        ({"record": f"{RECORD}-calibration"}, RecordError, "measured on, digits/calibration; got others."),
        ({"record": f"{RECORD}-train"}, RecordError, "measured on, digits/train; got others."),
    ],
)
def test_margins_of_other_images_or_networks_calibrate_nothing(options, error, text):
    with pytest.raises(error) as caught:
        calibrate_detector("digits/trades", "digits", epsilon=0.1, **{"record": RECORD} | options)
    assert text in str(caught.value)
