"""Figures of training studies show the numbers they are given, where a reader will look for them."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from margincons.plots.training import networks_by_recipe, terminal_shade, through_time


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


@pytest.fixture
def table():
    rows = [
        {"recipe": recipe, "seed": seed, "epoch": epoch, "tau": 0.1 * seed + epoch, "gap": place - seed}
        for place, recipe in enumerate(("digits/standard", "digits/pgd_at"))
        for seed in range(3)
        for epoch in (0, 1, 2, 4)
    ]
    return pd.DataFrame(rows)


def test_each_network_has_a_mark_and_each_recipe_one_at_its_mean_with_its_name(axes, table):
    networks_by_recipe(axes, table[table["epoch"] == 4], "gap", "tau")
    clouds, means = axes.lines[0::2], axes.lines[1::2]
    assert [len(cloud.get_xdata()) for cloud in clouds] == [3, 3]
    assert [float(mean.get_xdata()[0]) for mean in means] == pytest.approx([-1, 0])
    assert [float(mean.get_ydata()[0]) for mean in means] == pytest.approx([4.1, 4.1])
    assert axes.get_legend_handles_labels()[1] == ["standard", "pgd_at"]


def test_time_runs_over_checkpoints_with_a_line_for_each_seed_and_a_thick_one_for_the_mean(axes, table):
    through_time(axes, table[table["recipe"] == "digits/pgd_at"], {"tau": "tau", "gap": "gap"})
    assert len(axes.lines) == 2 * (3 + 1)
    mean = next(line for line in axes.lines if line.get_label() == "tau")
    assert mean.get_xdata().tolist() == [0, 1, 2, 3]
    assert mean.get_ydata() == pytest.approx(np.array([0, 1, 2, 4]) + 0.1)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "1", "2", "4"]


def test_the_terminal_phase_is_shaded_from_where_the_last_seed_reaches_it(axes, table):
    terminal_shade(axes, table, pd.Series([1.0, 2.0, np.nan]))
    assert not axes.patches
    terminal_shade(axes, table, pd.Series([1.0, 2.0, 1.0]))
    (shade,) = axes.patches
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == (2, 3)
