"""Panels over severities: every estimate stands where its table says."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from margincons.plots.shifts import severity_panels
from margincons.statistics.intervals import estimate


def test_each_panel_draws_a_line_per_network_from_the_clean_value_through_its_severities():
    rows = [("a", "clean", 0, 0.1), ("b", "clean", 0, 0.2)]
    rows += [(m, name, s, 0.1 * s + shift) for m in "ab" for name, shift in (("one", 0), ("two", 0.5)) for s in (1, 2)]
    cells = pd.DataFrame(rows, columns=["network", "shift", "severity", "share"])
    cells["share"] = [estimate("accuracy", np.arange(100) < round(100 * share)) for share in cells["share"]]
    figure, axes = plt.subplots(1, 3)
    severity_panels(axes, cells, "share")
    for panel, shift, name in ((axes[0], 0, "one"), (axes[1], 0.5, "two")):
        assert panel.get_title(loc="left") == name or panel.get_title() == name
        assert len(panel.containers) == 2
        for drawn, clean in zip(panel.containers, (0.1, 0.2), strict=True):
            x, y = np.array(drawn.lines[0].get_data(), dtype=float)
            np.testing.assert_allclose(y, [clean, 0.1 + shift, 0.2 + shift])
            np.testing.assert_array_equal(np.round(x), [0, 1, 2])
            (bars,) = drawn.lines[2]
            value = cells[cells["severity"] == 0]["share"].iloc[0 if clean == 0.1 else 1]
            np.testing.assert_allclose(bars.get_segments()[0][:, 1], [value.low, value.high])
    assert [text.get_text() for text in axes[2].get_legend().get_texts()] == ["a", "b"]
    plt.close(figure)
