import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from margincons.errors import DegenerateError, UsageError
from margincons.studies.accuracy_curve import accuracy_curve, robustness_margin, success_rate


def record(margins, correct):
    return pd.DataFrame({"upper": margins, "label": 0, "predicted": np.where(correct, 0, 1)})


RECORD = record([0.3, 0.1, 0.2, np.inf, 0.05], [True, True, True, True, False])


def test_the_curve_counts_the_right_images_whose_margin_is_larger():
    curve = accuracy_curve(RECORD, [0, 0.1, 0.15, 0.25, 0.5])
    assert [e.value for e in curve["accuracy"]] == [0.8, 0.6, 0.6, 0.4, 0.2]


def test_success_is_counted_over_the_right_images_only():
    assert success_rate(RECORD, epsilon=0.2).value == 2 / 4
    with pytest.raises(DegenerateError, match="no image is classified correctly"):
        success_rate(record([0.1], [False]), epsilon=0.2)


columns = st.lists(st.tuples(st.floats(0.01, 1), st.booleans()), min_size=1, max_size=30)


@given(columns, st.floats(0.01, 0.99))
def test_below_the_robustness_margin_the_accuracy_holds_and_at_it_no_longer(rows, accuracy):
    table = record(*(np.array(column) for column in zip(*rows, strict=True)))
    found = robustness_margin(table, accuracy=accuracy).value
    right, margins = (table["label"] == table["predicted"]).to_numpy(), table["upper"].to_numpy()
    if found > 0:
        assert (right & (margins > found * (1 - 1e-9))).mean() >= accuracy - 1e-9
    assert (right & (margins > found)).mean() < accuracy


def test_the_share_wanted_is_the_decimal_that_was_written():
    margins = np.arange(1.0, 101)
    found = robustness_margin(record(margins, np.ones(100, bool)), accuracy=0.55)  # of 100: 55.00000000000001
    assert found.value == 46  # 55 images, those from 46 to 100, hold below it


def test_the_interval_of_the_robustness_margin_covers_the_radius_of_the_population():
    draw = np.random.default_rng(0)
    covered = 0
    for _ in range(400):  # margins uniform on [0, 1], a tenth of the images wrong: 0.6 of all hold up to 1/3
        table = record(draw.uniform(size=100), draw.uniform(size=100) < 0.9)
        found = robustness_margin(table, accuracy=0.6)
        covered += found.low <= 1 / 3 <= found.high
    assert 0.93 <= covered / 400 <= 1


def test_an_accuracy_that_no_radius_reaches_has_margin_zero_and_one_that_cannot_be_meant_is_refused():
    assert robustness_margin(RECORD, accuracy=0.9).value == 0
    assert robustness_margin(RECORD, accuracy=0.2).value == np.inf
    with pytest.raises(UsageError, match=r"an accuracy in \(0, 1\), got 90"):
        robustness_margin(RECORD, accuracy=90)
    with pytest.raises(DegenerateError, match="there is no image"):
        robustness_margin(RECORD.head(0), accuracy=0.5)
