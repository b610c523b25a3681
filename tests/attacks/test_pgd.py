from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, kstest
from torch import nn
from torch.testing import assert_close

from margincons.attacks.pgd import ascent, pgd, random_start
from margincons.attacks.randomness import uniform
from margincons.attacks.result import rival_lead
from margincons.attacks.steps import hinge_sum
from margincons.errors import PixelRangeError, ShapeError, UsageError
from margincons.threat import ThreatModel, dual_norm, vector_norm

NORMS = ("Linf", "L2", "L1")


def halfspace():
    """Two classes that one hyperplane parts: the margin is |gap| / ||difference of weights||, exactly."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
    network[1].bias.data = -0.5 * network[1].weight.data.sum(dim=1)  # through the middle of the box
    return network


def curved():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 5)).eval()


@pytest.fixture
def spread():
    torch.manual_seed(1)
    return torch.rand(60, 1, 4, 4)


@pytest.fixture
def images():
    torch.manual_seed(1)
    return 0.4 + 0.2 * torch.rand(60, 1, 4, 4)  # far enough inside for the box not to matter


def exact_margin(network, images, norm):
    with torch.no_grad():
        gap = network(images).diff(dim=1)[:, 0].abs()
    difference = network[1].weight.diff(dim=0)[0].detach()
    return gap / difference.norm(p={"Linf": torch.inf, "L2": 2, "L1": 1}[dual_norm(norm)])


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_succeeds_exactly_where_the_ball_crosses_the_boundary(images, norm):
    network = halfspace()
    exact = exact_margin(network, images, norm)
    epsilon = exact.median().item() * 1.001
    result = pgd(network, images, network(images).argmax(dim=1), epsilon=epsilon, norm=norm)
    assert result.success[exact < 0.99 * epsilon].all()  # 40 steps leave some of the start's detour in L2
    assert not result.success[exact > epsilon].any()
    assert (result.upper >= exact - 1e-6).all()  # an attack never undershoots
    assert (result.upper[result.success] <= epsilon * (1 + 1e-5)).all()


def test_a_network_sure_beyond_single_precision_fools_the_cross_entropy_and_not_the_log_odds(images):
    network = halfspace()
    epsilon = exact_margin(network, images, "Linf").max().item() * 1.001
    for parameter in network.parameters():
        parameter.data *= 1e5
    assert (network(images).softmax(dim=1).amax(dim=1) == 1).float().mean() > 0.9  # flat in fp32
    labels = network(images).argmax(dim=1)
    assert not pgd(network, images, labels, epsilon=epsilon).success.all()
    assert pgd(network, images, labels, epsilon=epsilon, loss="log_odds").success.all()


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_climb_on_the_hinge_stops_within_one_step_of_the_lead_that_it_wants(images, share):
    network, steps = halfspace(), 20
    labels, reach = network(images).argmax(dim=1), network[1].weight.detach().diff(dim=0).abs().sum().item()
    epsilon = exact_margin(network, images, "Linf").median().item() / (1 - share)
    kappa, stride = share * reach * epsilon, 2.5 * epsilon / steps * reach  # a step lifts the lead by so much
    found = pgd(network, images, labels, epsilon=epsilon, steps=steps, loss=partial(hinge_sum, kappa=kappa))
    threat = ThreatModel(norm="Linf", epsilon=epsilon)
    start = random_start(images, threat, seed=0, indices=torch.arange(60), restart=0)
    clean, before, after = (rival_lead(network(x), labels).detach() for x in (images, start, found.adversarial))
    able, there = clean + reach * epsilon > kappa + 1e-5, before > kappa + 1e-5
    assert 20 < able.sum() < 40
    assert (after[able] >= kappa - 1e-5).all()
    assert (after[~there] <= kappa + stride + 1e-5).all()
    assert torch.equal(found.adversarial[there], start[there])  # it has what it wants before the first step


@given(norm=st.sampled_from(NORMS), epsilon=st.floats(0, 1), seed=st.integers(0, 2**31), step_size=st.floats(1e-3, 10))
@settings(max_examples=40, deadline=None)
def test_the_network_is_never_shown_an_image_outside_the_ball_or_the_box(norm, epsilon, seed, step_size):
    torch.manual_seed(seed)
    network, images = curved(), torch.rand(8, 1, 4, 4).round(decimals=1)  # some pixels on the edge of the box
    labels, shown = network(images).argmax(dim=1), []
    network.register_forward_pre_hook(lambda _, seen: shown.append(seen[0].detach()) if len(seen[0]) == 8 else None)
    pgd(network, images, labels, epsilon=epsilon, norm=norm, steps=3, seed=seed, step_size=step_size)
    for seen in shown:
        assert ((seen >= 0) & (seen <= 1)).all()
        assert (vector_norm(seen - images, norm) <= epsilon * (1 + 1e-5) + 1e-6).all()


@pytest.mark.parametrize("norm", NORMS)
def test_an_image_fares_alike_wherever_it_sits_in_the_batch(spread, norm):
    network, part = curved(), torch.randperm(60)[:25]
    labels = network(spread).argmax(dim=1)
    options = {"epsilon": 0.1 if norm == "Linf" else 0.4, "norm": norm, "restarts": 2, "steps": 10, "seed": 3}
    whole = pgd(network, spread, labels, **options)
    again = pgd(network, spread[part], labels[part], indices=part, **options)
    assert 0 < whole.success.sum() < 60
    assert_close(again.adversarial, whole.adversarial[part], rtol=0, atol=1e-5)


def test_the_seed_and_the_restart_move_the_random_start(images):
    threat, indices = ThreatModel(norm="Linf", epsilon=0.1), torch.arange(60)
    starts = [random_start(images, threat, seed=s, indices=indices, restart=r) for s, r in [(0, 0), (0, 1), (1, 0)]]
    assert all((a != b).all(dim=(1, 2, 3)).any() for a in starts for b in starts if a is not b)


def test_a_start_in_l1_is_a_point_even_where_a_uniform_draw_is_exactly_zero():
    indices, image = torch.tensor([1747]), torch.full((1, 3, 32, 32), 0.5)
    assert (uniform((3, 32, 32), seed=0, indices=indices, restart=0, device="cpu") == 0).any()
    start = random_start(image, ThreatModel(norm="L1", epsilon=12.0), seed=0, indices=indices, restart=0)
    assert 11 < vector_norm(start - image, "L1").item() <= 12.001


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_are_uniform_in_the_ball(norm):
    inside, epsilon = torch.full((4000, 1, 2, 2), 0.5), 0.3
    threat = ThreatModel(norm=norm, epsilon=epsilon)
    offsets = random_start(inside, threat, seed=0, indices=torch.arange(4000), restart=0) - 0.5
    radius = vector_norm(offsets, norm) / epsilon
    assert kstest(radius.numpy() ** 4, "uniform").pvalue > 0.01  # volume grows with the radius to the number of pixels
    assert offsets.mean(dim=0).abs().max() < 0.02  # no side is preferred
    pixels = offsets.flatten(1).numpy() / epsilon
    beside = {"Linf": (1, 1), "L2": (2.5, 2.5), "L1": (1, 4)}[norm]  # one coordinate of a uniform point of the ball
    shifted = abs(pixels) if norm == "L1" else (pixels + 1) / 2
    assert all(kstest(shifted[:, pixel], beta(*beside).cdf).pvalue > 0.01 for pixel in range(4))


def test_more_restarts_never_lose_a_success(spread):
    network = curved()
    labels = network(spread).argmax(dim=1)
    runs = [pgd(network, spread, labels, epsilon=0.2, steps=1, restarts=n, seed=5).success for n in (1, 2, 8)]
    assert (runs[0] <= runs[1]).all()
    assert (runs[1] <= runs[2]).all()
    assert runs[0].sum() < runs[2].sum()


def test_the_same_call_gives_the_same_images_and_leaves_the_generator_alone(images):
    network, before = curved(), torch.get_rng_state()
    labels = network(images).argmax(dim=1)
    first, second = (pgd(network, images, labels, epsilon=0.05, steps=5) for _ in range(2))
    assert_close(first.adversarial, second.adversarial, rtol=0, atol=0)
    assert_close(torch.get_rng_state(), before)


def test_what_cannot_be_meant_is_refused(images):
    network, labels = halfspace(), torch.zeros(60, dtype=torch.long)
    with pytest.raises(UsageError, match="steps=0 and restarts=1"):
        pgd(network, images, labels, epsilon=0.1, steps=0)
    with pytest.raises(UsageError, match="did you mean 8/255"):
        pgd(network, images, labels, epsilon=8)
    for step_size in (-0.1, 0.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match=f"step_size above 0, got {step_size}"):
            pgd(network, images, labels, epsilon=0.1, step_size=step_size)
    with pytest.raises(ShapeError, match="indices"):
        pgd(network, images, labels, epsilon=0.1, indices=torch.tensor([3]))
    with pytest.raises(PixelRangeError, match="mean-normalised"):
        pgd(network, images - 1, labels, epsilon=0.1)


def test_pgd_attacks_in_evaluation_mode_and_the_bare_loop_in_the_mode_it_finds(images):
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(images[0].numel()), nn.Linear(images[0].numel(), 3)).train()
    labels, threat = network(images).argmax(dim=1), ThreatModel(norm="Linf", epsilon=0.1)
    statistics = network[1].running_mean.clone()
    pgd(network, images, labels, epsilon=0.1, steps=3)
    assert_close(network[1].running_mean, statistics, rtol=0, atol=0)
    assert network[1].training
    list(ascent(network, images, labels, start=images, threat=threat, steps=3, step_size=0.1))
    assert not torch.equal(network[1].running_mean, statistics)
