"""The endpoint against samples of a known distribution; shape and likelihood against scipy."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.testing import assert_close

from margincons.costly_scores.reverse_weibull import EXCESS, at_limit, endpoint, log_likelihood, shape


def test_the_endpoint_of_many_maxima_is_that_of_the_distribution_they_were_drawn_from():
    draw = np.random.default_rng(0)
    for true_shape, end in ((1.5, 3.0), (3.0, -1.0)):
        maxima = end - 0.4 * draw.weibull(true_shape, size=(4000, 3))
        assert_close(endpoint(torch.tensor(maxima)), torch.full((3,), end, dtype=torch.float64), atol=0.03, rtol=0)


def test_the_endpoint_is_at_or_above_every_maximum_and_follows_scale_and_shift():
    maxima = torch.rand(20, 50, dtype=torch.float64)
    found = endpoint(maxima)
    assert (found >= maxima.amax(dim=0)).all()
    assert_close(endpoint(3 * maxima + 7), 3 * found + 7)
    assert_close(endpoint(torch.full((5, 2), 4.0)), torch.full((2,), 4.0, dtype=torch.float64))  # all alike


@pytest.mark.parametrize("true_shape", [1.2, 2.0, 8.0])
def test_shape_and_likelihood_are_those_of_scipys_fit(true_shape):
    distances = 0.7 * np.random.default_rng(1).weibull(true_shape, size=200)
    fitted, _, scale = stats.weibull_min.fit(distances, floc=0)
    column = torch.tensor(distances)[:, None]
    assert shape(column).item() == pytest.approx(fitted, rel=1e-3)
    expected = stats.weibull_min.logpdf(distances, fitted, scale=scale).mean()
    assert log_likelihood(column).item() == pytest.approx(expected, abs=1e-6)


def test_the_shape_is_held_to_one_or_more_where_the_likelihood_has_a_maximum():
    assert shape(torch.tensor(np.random.default_rng(2).weibull(0.4, size=(300, 2)))).tolist() == pytest.approx([1, 1])


def test_no_endpoint_of_scipys_search_is_more_likely():
    for seed in range(5):
        maxima = 2 - np.random.default_rng(seed).weibull(2.5, size=60)
        found = endpoint(torch.tensor(maxima)[:, None]).item()
        ours = log_likelihood(torch.tensor(found - maxima)[:, None]).item()
        fitted, end, scale = stats.weibull_max.fit(maxima, 2.0, loc=maxima.max() + 0.1)
        if fitted >= 1 and end > maxima.max():
            assert ours >= stats.weibull_max.logpdf(maxima, fitted, loc=end, scale=scale).mean() - 2e-3


def test_a_fit_is_at_the_limit_where_the_likelihood_still_rises_there_and_not_where_it_has_fallen():
    draw = np.random.default_rng(3)
    columns = torch.tensor(np.concatenate([1 - draw.weibull(2.0, (20, 30)), draw.gumbel(size=(20, 30))], axis=1))
    found = at_limit(columns, endpoint(columns))
    top, spread = columns.amax(dim=0), columns.amax(dim=0) - columns.amin(dim=0)
    nearer, here, beyond = (log_likelihood(top + part * EXCESS[1] * spread - columns) for part in (0.7, 1, 1.5))
    assert found[beyond > here].all()
    assert (here > nearer)[found].all()
    assert found[:30].sum() < found[30:].sum()  # more often where the law of the maxima has no endpoint


def test_the_fit_of_many_maxima_of_a_law_with_an_endpoint_is_not_at_the_limit_and_one_value_never_is():
    many = torch.tensor(1 - np.random.default_rng(4).weibull(2.0, (4000, 3)))
    assert not at_limit(many, endpoint(many)).any()
    alike = torch.full((5, 2), 4.0)
    assert not at_limit(alike, endpoint(alike)).any()
