"""A detector judged under a shift: against counts by hand, the detector itself, and families of chances."""

import dataclasses
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest

from margincons import Detector, load_images, load_model, measure_images
from margincons.data.shifts import shift
from margincons.detection import is_brittle
from margincons.errors import TooFewImagesError
from margincons.statistics.conformal import conformal_threshold
from margincons.statistics.intervals import estimate
from margincons.statistics.metrics import accuracy, auroc, fpr_at_tpr, kendall_tau
from margincons.studies.association import holm
from margincons.studies.shift_study import BROKEN, KEPT, OPEN, tau_change, under_shift, verdicts

OPTIONS = {"epsilon": 0.1, "miss_rate": 0.1, "replicates": 5}


def table(margins, logits, *, label=0):
    shape = np.zeros(len(margins), dtype=int)
    return pd.DataFrame({"label": shape + label, "predicted": shape, "logit_margin": logits, "upper": margins})


@pytest.fixture(scope="module")
def measured():
    images, model = load_images("digits", n=200), load_model("digits/standard")
    known = load_images("digits", split="calibration", n=60)
    blurred = dataclasses.replace(images, inputs=shift(images.inputs, 1, name="blur"))
    calm = measure_images(model, known, effort="fast")
    return model, known, calm, blurred, measure_images(model, blurred, effort="fast")


def test_each_number_is_what_its_name_says_and_the_misses_are_the_detectors_own(measured):
    model, known, calm, images, changed = measured
    row = under_shift(changed, calm, looks=10, **OPTIONS)
    detector = Detector.calibrate(model, known.inputs, margins=calm["upper"].to_numpy(), epsilon=0.1, miss_rate=0.1)
    flagged, brittle = detector(images.inputs).numpy(), is_brittle(changed, 0.1)
    assert row["missed"].value == pytest.approx((~flagged)[brittle].mean())
    assert row["flagged"] == pytest.approx(flagged.mean())
    assert row["brittle among unflagged"] == pytest.approx(brittle[~flagged].mean())
    assert row["accuracy"].value == accuracy(changed["label"] == changed["predicted"])
    assert row["brittle"].value == brittle.mean()
    assert row["tau"].value == kendall_tau(changed["upper"], changed["logit_margin"])
    assert row["AUROC"].value == auroc(brittle, -changed["logit_margin"])
    assert row["FPR@95"].value == fpr_at_tpr(brittle, -changed["logit_margin"])
    assert row["widened"].value == row["missed"].value
    assert row["widened"].level == 1 - 0.05 / 10
    assert row["widened"].low < row["missed"].low < row["missed"].high < row["widened"].high


def test_a_change_of_tau_is_paired_and_its_interval_is_widened_for_all_looks(measured):
    *_, changed = measured
    noise = np.random.default_rng(0).normal(size=(2, len(changed)))
    before = changed.assign(logit_margin=changed["upper"] + 0.02 * noise[0])
    after = before.assign(logit_margin=before["logit_margin"] + 0.02 * noise[1])  # the order suffers
    one, many = (tau_change(after, before, looks=looks, replicates=400) for looks in (1, 100))
    taus = [kendall_tau(table["upper"], table["logit_margin"]) for table in (after, before)]
    assert one.value == many.value == pytest.approx(taus[0] - taus[1])
    assert one.high < 0
    z = NormalDist().inv_cdf
    assert (many.high - many.low) / (one.high - one.low) == pytest.approx(z(1 - 0.025 / 100) / z(0.975))
    unpaired = np.hypot(
        *(
            estimate("kendall_tau", t["upper"], t["logit_margin"], replicates=400).standard_error
            for t in (after, before)
        )
    )
    assert one.standard_error < 0.9 * unpaired
    assert (one.low + one.high) / 2 == pytest.approx(one.value)
    same = tau_change(before, before, looks=100, replicates=5)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_what_is_undefined_is_nan_and_too_small_a_calibration_is_refused(measured):
    _, _, calm, _, changed = measured
    all_brittle = changed.assign(upper=changed["upper"] / 1e6)
    row = under_shift(all_brittle, calm, **OPTIONS)
    assert np.isnan(row["AUROC"])
    assert np.isnan(row["FPR@95"])
    assert row["brittle among unflagged"] == 1
    row = under_shift(changed.assign(upper=changed["upper"] + 1), calm, **OPTIONS)
    assert np.isnan(row["missed"])
    assert np.isnan(row["chance of more"])
    assert row["accuracy"].n == 200
    with pytest.raises(TooFewImagesError):
        under_shift(changed, calm[is_brittle(calm, 0.1)].head(8), **OPTIONS)


def test_verdicts_find_the_broken_and_the_kept_and_leave_the_rest_open_as_one_family():
    draw = np.random.default_rng(0)

    def brittle(logits):
        return table(np.append(np.full(len(logits), 0.05) + 1e-4 * draw.random(len(logits)), 1.0), np.append(logits, 9))

    calm = brittle(draw.random(100))
    kinds = {
        BROKEN: brittle(draw.random(100) + 0.5),
        KEPT: brittle(draw.random(300) - 0.5),
        OPEN: brittle(draw.random(30)),
    }
    cells = pd.DataFrame([under_shift(one, calm, looks=4, **OPTIONS) for one in kinds.values()])
    cells.loc[3] = cells.loc[2]
    cells.loc[3, ["missed", "widened", "chance of more", "chance of change"]] = np.nan
    judged = verdicts(cells, miss_rate=0.1)
    assert judged["verdict"].tolist() == [*kinds, OPEN]
    assert judged["changed"].tolist() == [True, True, False, False]
    assert judged["p"][:3].tolist() == holm(cells["chance of more"][:3]).tolist()  # the undefined one is no look
    assert np.isnan(judged["p"][3])
    assert "verdict" not in cells  # what was passed is left alone


def test_changed_scores_are_looked_for_as_often_as_there_are_cells_and_so_raised():
    columns = {"chance of more": [0.5] * 4, "widened": [None] * 4}
    cells = pd.DataFrame(columns | {"chance of change": [0.02, 0.02, 0.6, 0.01]})
    judged = verdicts(cells, miss_rate=0.1)
    assert judged["changed"].tolist() == [False, False, False, True]  # 4 * 0.01 is below 5%, 3 * 0.02 is not
    assert judged["verdict"].tolist() == [OPEN] * 4


def test_where_nothing_changes_no_promise_of_a_family_is_called_broken_more_often_than_once_in_twenty():
    draw, families = np.random.default_rng(1), []
    for _ in range(60):
        calm = table(np.full(40, 0.05) + 1e-3 * draw.random(40), draw.random(40))
        new = [table(np.full(60, 0.05) + 1e-3 * draw.random(60), draw.random(60)) for _ in range(5)]
        cells = pd.DataFrame([under_shift(one, calm, **OPTIONS | {"replicates": 1}) for one in new])
        families.append((verdicts(cells, miss_rate=0.1)["verdict"] == BROKEN).any())
    assert np.mean(families) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)


def test_a_score_just_at_the_threshold_is_flagged(measured):
    _, _, calm, _, _ = measured
    scores, brittle = -calm["logit_margin"].to_numpy(), is_brittle(calm, OPTIONS["epsilon"])
    threshold = conformal_threshold(scores[brittle], OPTIONS["miss_rate"])
    assert (scores == threshold).any()
    assert under_shift(calm, calm, **OPTIONS)["flagged"] == pytest.approx((scores >= threshold).mean())
