import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import kstest, norm
from torch.testing import assert_close

from margincons.attacks import randomness
from margincons.attacks.randomness import gaussian, laplace, uniform

WORDS = 2**64


def draw(indices, *, seed=0, restart=0, shape=(2, 5, 5), source=uniform):
    return source(shape, seed=seed, indices=torch.as_tensor(indices), restart=restart, device="cpu")


def splitmix(state):
    state = (state + 0x9E3779B97F4A7C15) % WORDS
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % WORDS
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % WORDS
    return state ^ (state >> 31)


@pytest.mark.parametrize("source", [uniform, gaussian, laplace])
def test_a_draw_does_not_depend_on_the_place_in_the_batch(source):
    together = draw([3, 1, 4, 15, 9], source=source)
    for place, index in enumerate([3, 1, 4, 15, 9]):
        assert_close(draw([index], source=source)[0], together[place], rtol=0, atol=0)


@given(seed=st.integers(-(2**63), 2**63 - 1), index=st.integers(0, 2**40), restart=st.integers(-5, 1000))
@settings(max_examples=50, deadline=None)
def test_draws_are_splitmix64_of_seed_index_restart_and_counter(seed, index, restart):
    key = splitmix((splitmix((splitmix(seed % WORDS) + index) % WORDS) + restart) % WORDS)
    exact = [(splitmix((key + n * 0x9E3779B97F4A7C15) % WORDS) >> 40) / 2**24 for n in range(1, 5)]
    assert draw([index], seed=seed, restart=restart, shape=(4,))[0].tolist() == exact


def test_seed_index_and_restart_each_change_every_stream():
    streams = [draw([0]), draw([0], seed=1), draw([1]), draw([0], restart=1), draw([1], seed=-1), draw([0], seed=-1)]
    for first, left in enumerate(streams):
        for right in streams[first + 1 :]:
            assert (left != right).float().mean() > 0.9


def test_uniform_draws_are_uniform_on_the_half_open_unit_interval():
    draws = draw(range(200), shape=(500,))
    assert draws.dtype == torch.float32
    assert 0 <= draws.min() < 1e-4
    assert 1 - 1e-4 < draws.max() < 1
    assert kstest(draws.flatten().numpy(), "uniform").pvalue > 0.01
    assert kstest(draws[:, 0].numpy(), "uniform").pvalue > 0.01  # across images as well as within them


@pytest.mark.parametrize(("source", "name"), [(gaussian, "norm"), (laplace, "laplace")])
def test_draws_have_the_standard_distribution_of_their_name_and_are_finite(source, name):
    draws = draw(range(200), shape=(500,), source=source)
    assert draws.isfinite().all()
    assert kstest(draws.flatten().numpy(), name).pvalue > 0.01


@pytest.mark.parametrize("extreme", [0.0, 1 - 2.0**-24])
@pytest.mark.parametrize(("source", "quantile"), [(gaussian, norm.ppf), (laplace, stats.laplace.ppf)])
def test_the_extreme_uniform_draws_give_finite_others(source, quantile, extreme, monkeypatch):
    monkeypatch.setattr(randomness, "uniform", lambda shape, **key: torch.full((1, *shape), extreme))
    assert draw([0], source=source).abs().max().item() == pytest.approx(-quantile(2.0**-25), abs=1e-5)


def test_neighbouring_images_and_restarts_are_uncorrelated():
    draws = torch.stack([draw([0, 1], restart=r, shape=(20_000,)) for r in (0, 1)]).flatten(0, 1)
    correlation = torch.corrcoef(draws) - torch.eye(4)
    assert correlation.abs().max() < 4 / 20_000**0.5


@pytest.mark.gpu
def test_uniform_draws_are_the_same_bits_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    key = {"seed": 7, "indices": torch.arange(50), "restart": 2}
    there = uniform((3, 32, 32), device="cuda", **key)
    assert_close(there.cpu(), uniform((3, 32, 32), device="cpu", **key), rtol=0, atol=0)
