import logging
import sys
import types
from itertools import pairwise
from pathlib import Path

import pyautoattack
import pytest
import torch
from scipy.optimize import linprog
from torch import nn
from torch.testing import assert_close

from margincons.attacks.autoattack import apgd, autoattack, square
from margincons.attacks.autoattack_package import import_autoattack
from margincons.attacks.fab import fab_paper, fab_restarts, fab_targeted
from margincons.attacks.result import AttackResult, step_outwards
from margincons.cautions import (
    DynamicWarning,
    MaskedGradientsWarning,
    ProbabilitiesWarning,
    RandomisedWarning,
    VanishingGradientsWarning,
)
from margincons.errors import PixelRangeError, ShapeError, UnknownNameError, UsageError
from margincons.passes import CountPasses
from margincons.threat import dual_norm, vector_norm

NORMS = ("Linf", "L2", "L1")
FABS = (fab_paper, fab_restarts, fab_targeted)


def linear(classes=5, pixels=64):
    """Boundaries are hyperplanes: the margin is min_j (f_i - f_j) / ||w_i - w_j|| in the dual norm, exactly."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).eval()
    network[1].bias.data = -0.5 * network[1].weight.data.sum(dim=1)  # the boundaries meet inside the box
    return network


def curved(classes=4, pixels=16):
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 24), nn.ReLU(), nn.Linear(24, classes)).eval()


def exact_margin(network, images, norm):
    with torch.no_grad():
        logits, weight = network(images), network[1].weight
        best = logits.argmax(dim=1)
        order = {"Linf": torch.inf, "L2": 2, "L1": 1}[dual_norm(norm)]
        slope = (weight[best][:, None] - weight).norm(p=order, dim=2)
        gap = logits.amax(dim=1, keepdim=True) - logits
        return torch.where(slope > 0, gap / slope, torch.inf).amin(dim=1)


def predictions(network, images):
    with torch.no_grad():
        return network(images).argmax(dim=1)


def predictions_gap(network, images):
    with torch.no_grad():
        return -network(images).topk(2).values.diff(dim=1)[:, 0]


@pytest.fixture
def inner():
    """Digit-shaped images far enough inside for the box not to matter."""
    torch.manual_seed(1)
    return 0.45 + 0.1 * torch.rand(30, 1, 8, 8)


@pytest.fixture
def spread():
    torch.manual_seed(1)
    return torch.rand(30, 1, 4, 4)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("fab", FABS)
def test_fab_finds_the_exact_margin_of_hyperplanes_to_one_percent(fab, norm, inner):
    network = linear()
    exact = exact_margin(network, inner, norm)
    result = fab(network, inner, predictions(network, inner), norm=norm, steps=30, restarts=2)
    assert result.success.all()
    assert (result.upper >= exact * (1 - 1e-5)).all()  # an attack never undershoots
    assert (result.upper <= exact * 1.01).all()


@pytest.mark.parametrize("fab", FABS)
def test_fab_respects_the_pixel_box_as_a_linear_program_does(fab, spread):
    network = linear(classes=2, pixels=16)
    labels = predictions(network, spread)
    difference = network[1].weight.diff(dim=0)[0].detach()
    result = fab(network, spread, labels, norm="Linf", restarts=2)
    bound = 0
    for image, label, upper in zip(spread.flatten(1), labels, result.upper, strict=True):
        towards = difference if label == 0 else -difference
        gap = (network(image.view(1, 1, 4, 4)).diff(dim=1) * (1 if label == 0 else -1)).item()
        # variables: 16 pixel moves and the radius; moves stay inside the radius and the box, and close the gap
        sides = [[*(s * (i == j) for j in range(16)), -1.0] for i in range(16) for s in (1.0, -1.0)]
        close = [*(-towards).tolist(), 0.0]
        box = [(-pixel, 1 - pixel) for pixel in image.tolist()]
        best = linprog([0.0] * 16 + [1.0], A_ub=[*sides, close], b_ub=[0.0] * 32 + [gap], bounds=[*box, (0, 1)]).fun
        assert best * (1 - 1e-5) <= upper <= best * 1.01
        bound += best > -gap / difference.abs().sum() * 1.01
    assert bound > 5  # the box mattered


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_fab_paper_is_what_autoattack_returns_for_an_infinite_budget(norm, spread):
    network = curved()
    labels = predictions(network, spread)
    direct = pyautoattack.AutoAttack(network, norm=norm, eps=float("inf"), seed=0, version="custom", attacks=["fab"])
    with torch.random.fork_rng():
        candidates, _ = direct.run_standard_evaluation(spread, labels)
    candidates = step_outwards(network, spread, candidates, labels)
    expected = AttackResult.judge(network, spread, candidates, labels, norm=norm)
    assert_close(fab_paper(network, spread, labels, norm=norm).upper, expected.upper, rtol=0, atol=0)


def test_restarts_tighten_nothing_under_an_infinite_budget_and_something_when_the_minimum_is_kept(spread):
    network = curved()
    labels, options = predictions(network, spread), {"norm": "Linf", "steps": 30}
    once, paper = (fab_paper(network, spread, labels, restarts=n, **options) for n in (1, 5))
    assert once.success.all()
    assert_close(paper.upper, once.upper, rtol=0, atol=0)
    assert_close(fab_restarts(network, spread, labels, restarts=1, **options).upper, once.upper, rtol=0, atol=0)
    kept = fab_restarts(network, spread, labels, restarts=5, **options).upper
    assert (kept <= once.upper).all()
    assert (kept < once.upper * 0.99).any()


def test_more_targets_never_loosen_a_bound(spread):
    network = curved()
    labels = predictions(network, spread)
    bounds = [fab_targeted(network, spread, labels, norm="L2", steps=20, targets=n).upper for n in (1, 2, 3)]
    assert all((more <= fewer).all() for fewer, more in pairwise(bounds))
    assert (bounds[2] < bounds[0]).any()


def test_targets_beyond_the_classes_are_not_asked_for(spread):
    network = CountPasses(curved(classes=3))
    labels = predictions(network, spread)
    network.backward_images = 0
    fab_targeted(network, spread, labels, norm="Linf", steps=4, targets=9)
    assert network.backward_images == 2 * 4 * 30  # two other classes, four steps, thirty images


@pytest.mark.parametrize("fab", FABS)
def test_a_failure_is_an_infinite_bound_and_not_distance_0(fab, spread):
    class Constant(nn.Module):
        def forward(self, images):
            return torch.tensor([[1.0, 0.0, -1.0]]) + 0 * images.flatten(1).sum(dim=1, keepdim=True)

    result = fab(Constant(), spread, torch.zeros(30, dtype=torch.long), norm="Linf", steps=3, restarts=2)
    assert not result.success.any()
    assert (result.upper == torch.inf).all()
    assert_close(result.adversarial, spread, rtol=0, atol=0)


@pytest.mark.parametrize("fab", FABS)
def test_bounds_that_end_too_near_a_boundary_are_pushed_across(fab, inner):
    network = linear()
    network[1].bias.data += 10  # a witness now needs a lead of 1e-4, more than FAB overshoots by on most images
    exact = exact_margin(network, inner, "L2")
    gap = predictions_gap(network, inner)
    result = fab(network, inner, predictions(network, inner), norm="L2", steps=30)
    assert ((gap > 0.008) & (gap < 0.015)).any()
    assert result.success[gap > 0.008].all()
    assert (result.upper[gap > 0.008] <= 1.02 * exact[gap > 0.008]).all()


@pytest.mark.parametrize("norm", NORMS)
def test_kept_restarts_start_half_as_far_out_as_the_nearest_witness(norm, inner):
    network, started = linear(), []
    labels = predictions(network, inner)
    first = fab_restarts(network, inner, labels, norm=norm, steps=10, restarts=1).upper
    network.register_forward_pre_hook(
        lambda _, seen: started.append(seen[0].detach()) if seen[0].requires_grad else None
    )
    fab_restarts(network, inner, labels, norm=norm, steps=10, restarts=2)
    assert_close(started[0], inner)
    assert_close(vector_norm(started[10] - inner, norm), first / 2, rtol=1e-3, atol=0)


def test_a_run_that_fails_never_displaces_a_witness(spread):
    network = curved()
    labels = predictions(network, spread)
    once, kept = (fab_restarts(network, spread, labels, norm="Linf", steps=1, restarts=n) for n in (1, 6))
    assert 0 < once.success.sum() < kept.success.sum()
    assert (kept.upper <= once.upper).all()


def test_fab_paper_gives_an_image_it_cannot_solve_the_tries_it_is_told(spread):
    network = CountPasses(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    network.model[1].weight.data *= 0
    labels = predictions(network, spread)
    fab_paper(network, spread, labels, norm="Linf", steps=4, restarts=3)
    assert network.backward_images == 3 * 4 * 3 * 30  # restarts, steps, classes, images


@pytest.mark.parametrize("fab", FABS)
def test_misclassified_images_count_as_distance_0_among_others(fab, spread):
    network = curved()
    labels = predictions(network, spread)
    labels[::2] = (labels[::2] + 1) % 4
    result = fab(network, spread, labels, norm="L2", steps=20, restarts=2)
    assert (result.upper[::2] == 0).all()
    assert (result.upper[1::2] > 0).all()


@pytest.mark.parametrize("norm", NORMS)
def test_the_starts_of_kept_restarts_follow_the_image_not_the_batch(norm, spread):
    network, part = curved(), torch.tensor([29, 3, 17, 8, 21])
    labels, options = predictions(network, spread), {"norm": norm, "steps": 20, "restarts": 4, "seed": 3}
    whole = fab_restarts(network, spread, labels, **options).upper
    again = fab_restarts(network, spread[part], labels[part], indices=part, **options).upper
    assert_close(again, whole[part], rtol=1e-3, atol=1e-5)
    other = fab_restarts(network, spread, labels, **{**options, "seed": 4}).upper
    assert (other != whole).any()


@pytest.mark.parametrize("norm", NORMS)
def test_the_ensemble_succeeds_exactly_where_the_ball_crosses_a_boundary(norm, inner):
    network = linear()
    exact = exact_margin(network, inner, norm)
    epsilon = exact.median().item() * 1.001
    attacks = ["apgd-ce", "fab-t"]
    result = autoattack(network, inner, predictions(network, inner), epsilon=epsilon, norm=norm, attacks=attacks)
    assert result.success[exact < 0.99 * epsilon].all()
    assert not result.success[exact > epsilon * (1 + 1e-5)].any()
    assert (result.upper[result.success] <= epsilon * (1 + 1e-5)).all()


def test_the_standard_ensemble_runs_in_several_batches_and_on_colour_images():
    torch.manual_seed(0)
    network, images = linear(pixels=108), 0.45 + 0.1 * torch.rand(5, 3, 6, 6)
    exact = exact_margin(network, images, "Linf")
    epsilon = exact.sort().values[3:].mean().item()
    options = {"epsilon": epsilon, "norm": "Linf", "batch_size": 3}
    assert_close(autoattack(network, images, predictions(network, images), **options).success, exact < epsilon)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("attack", "effort"), [(apgd, {"steps": 30}), (square, {"queries": 200})])
def test_single_attacks_find_what_is_easy_and_nothing_that_is_impossible(attack, effort, norm, inner):
    network = linear()
    labels, exact = predictions(network, inner), exact_margin(network, inner, norm)
    easy = attack(network, inner, labels, epsilon=3 * exact.max().item(), norm=norm, **effort)
    assert easy.success.float().mean() > 0.7
    hard = attack(network, inner, labels, epsilon=exact.min().item() * 0.99, norm=norm, **effort)
    assert not hard.success.any()


def test_apgd_takes_the_steps_and_restarts_it_is_told(inner):
    network = CountPasses(linear())
    labels = predictions(network, inner)
    for loss in ("ce", "dlr"):
        network.backward_images = 0
        apgd(network, inner, labels, epsilon=1e-5, norm="Linf", loss=loss, steps=7, restarts=2)
        assert network.backward_images == 2 * (7 + 1) * 30  # one more for the random start


def test_square_asks_as_often_as_it_is_told(inner):
    network = CountPasses(linear())
    labels, seen = predictions(network, inner), []
    for queries, restarts in [(10, 1), (30, 1), (10, 3)]:
        network.forward_images = 0
        square(network, inner, labels, epsilon=1e-5, norm="Linf", queries=queries, restarts=restarts)
        seen.append(network.forward_images)
    assert network.backward_images == 0
    assert seen[1] - seen[0] == 20 * 30
    assert seen[2] - seen[0] == 2 * (1 + 10 + 1) * 30  # its start, its queries and the verdict of each restart


def test_two_classes_are_enough_for_everything_but_the_dlr_loss(inner):
    network = linear(classes=2)
    labels, exact = predictions(network, inner), exact_margin(network, inner, "Linf")
    for fab in FABS:
        assert_close(fab(network, inner, labels, norm="Linf", steps=30).upper, exact, rtol=0.01, atol=0)
    options = {"epsilon": exact.max().item() * 1.01, "norm": "Linf"}
    assert autoattack(network, inner, labels, attacks=["apgd-ce", "fab-t", "square"], **options).success.all()
    with pytest.raises(UsageError, match=r"at least 3 classes for AutoAttack's 'apgd-dlr'.*got 2"):
        apgd(network, inner, labels, loss="dlr", **options)
    with pytest.raises(UsageError, match=r"at least 4 classes for AutoAttack's 'standard'.*got 2.*'apgd-ce'"):
        autoattack(network, inner, labels, **options)
    three = linear(classes=3)
    with pytest.raises(UsageError, match=r"at least 4 classes for AutoAttack's 'apgd-t'.*got 3"):
        autoattack(three, inner, predictions(three, inner), attacks=["apgd-t"], **options)


def test_what_cannot_be_meant_is_refused(inner):
    network = linear()
    labels = predictions(network, inner)
    with pytest.raises(UnknownNameError, match=r"version of AutoAttack 'standart'.*standard"):
        autoattack(network, inner, labels, epsilon=0.1, norm="Linf", version="standart")
    with pytest.raises(UnknownNameError, match=r"attack 'apgd'.*apgd-t"):
        autoattack(network, inner, labels, epsilon=0.1, norm="Linf", attacks=["apgd"])
    with pytest.raises(UnknownNameError, match="loss of APGD 'cw'"):
        apgd(network, inner, labels, epsilon=0.1, norm="Linf", loss="cw")
    with pytest.raises(UnknownNameError, match="Unknown norm 'linf'"):
        fab_paper(network, inner, labels, norm="linf")
    with pytest.raises(PixelRangeError, match="divide by 255"):
        fab_restarts(network, inner * 255, labels, norm="Linf")
    with pytest.raises(ShapeError, match=r"torch\.float32, got torch\.float64"):
        square(network.double(), inner.double(), labels, epsilon=0.1, norm="Linf")


def test_nothing_is_left_behind(inner, capfd, caplog, tmp_path, monkeypatch):
    def tracer(*event):
        """A debugger's or a coverage tool's."""

    monkeypatch.chdir(tmp_path)
    network, traced_by = linear(), sys.gettrace()
    labels, before = predictions(network, inner), torch.get_rng_state()
    sys.settrace(tracer)
    try:
        for fab in FABS:
            fab(network, inner, labels, norm="Linf", steps=2)
        autoattack(network, inner, labels, epsilon=0.01, norm="Linf", attacks=["apgd-dlr"])
        with pytest.warns(ProbabilitiesWarning, match="AutoAttack saw outputs that are probabilities; leave out"):
            apgd(nn.Sequential(network, nn.Softmax(dim=1)), inner, labels, epsilon=0.01, norm="L2", steps=3)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(traced_by)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert list(Path().iterdir()) == []
    assert_close(torch.get_rng_state(), before)
    assert logging.getLogger("auto-attack").propagate
    assert logging.getLogger("auto-attack").handlers == []
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


class Noisy(nn.Module):
    """A network under small noise."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, inputs):
        return self.network(inputs + 0.01 * torch.randn_like(inputs))


class Purified(Noisy):
    """Moves its input along its own gradient before it looks at it: a dynamic defence."""

    def forward(self, inputs):
        with torch.enable_grad():
            moved = inputs.detach().requires_grad_()
            moved = moved - 0.01 * torch.autograd.grad(self.network(moved).sum(), moved)[0]
        return self.network(moved.detach() + 0 * inputs)


class Kinked(Noisy):
    """Constant but for steps: gradients vanish almost everywhere."""

    def forward(self, inputs):
        logits = self.network(inputs)
        return logits.round() + 0 * logits


class Misleading(Noisy):
    """Its gradient points the wrong way."""

    def forward(self, inputs):
        return self.network(2 * inputs.detach() - inputs)


@pytest.mark.parametrize(
    ("wrap", "attacks", "caution", "text"),
    [
        (Noisy, ["apgd-ce"], RandomisedWarning, "AutoAttack saw logits change between passes; fix the network's"),
        (Purified, ["apgd-ce"], DynamicWarning, "AutoAttack saw the network compute gradients in its own forward pass"),
        (Kinked, ["apgd-dlr"], VanishingGradientsWarning, "AutoAttack started at up to 30 images with zero gradient"),
        (
            Misleading,
            ["apgd-ce", "fab", "square"],
            MaskedGradientsWarning,
            r"Square took \d+\.\d\d points off the accuracy that gradients had left; gradients mislead the attacks",
        ),
    ],
)
def test_what_autoattacks_own_checks_say_is_a_warning_with_a_name(inner, wrap, attacks, caution, text, capfd):
    plain = linear()
    network = wrap(plain)
    labels = predictions(network, inner)
    epsilon = exact_margin(plain, inner, "Linf").median().item()
    with pytest.warns(caution, match=text):
        autoattack(network, inner, labels, epsilon=epsilon, norm="Linf", attacks=attacks)
    assert capfd.readouterr() == ("", "")
    autoattack(plain, inner, predictions(plain, inner), epsilon=epsilon, norm="Linf", attacks=["apgd-ce"])  # forgotten


def test_an_empty_batch_is_answered_with_an_empty_result(inner):
    network, nothing = linear(), torch.zeros(0, dtype=torch.long)
    for fab in FABS:
        assert fab(network, inner[:0], nothing, norm="L2").upper.shape == (0,)
    assert autoattack(network, inner[:0], nothing, epsilon=0.1, norm="L2").success.shape == (0,)


@pytest.fixture
def without_alias(monkeypatch):
    for name in ("autoattack", "autoattack.state"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_pyautoattack_answers_to_the_name_of_the_original(without_alias):
    assert import_autoattack() is pyautoattack
    from autoattack import AutoAttack
    from autoattack.state import EvaluationState

    assert AutoAttack is pyautoattack.AutoAttack
    assert EvaluationState is sys.modules["pyautoattack.state"].EvaluationState  # not a second copy


class OriginalSignature:
    """Stands in for the class of the original package, which the registry does not have.

    It has that class's parameters, defaults, printing and return value, and pyautoattack's attacks inside.
    """

    def __init__(
        self,
        model,
        norm="Linf",
        eps=0.3,
        seed=None,
        verbose=True,
        attacks_to_run=(),
        version="standard",
        is_tf_model=False,
        device="cuda",
        log_path=None,
    ):
        if version != "custom" and attacks_to_run:
            raise ValueError("attacks_to_run will be overridden unless you use version='custom'")
        options = {"attacks": attacks_to_run} if version == "custom" else {}
        self.inside = pyautoattack.AutoAttack(
            model, norm=norm, eps=eps, seed=seed, version=version, device=device, **options
        )
        self.fab, self.apgd, self.apgd_targeted = self.inside.fab, self.inside.apgd, self.inside.apgd_targeted
        self.square, self.logger, self.verbose = self.inside.square, self.inside.logger, verbose
        print("setting parameters")

    def run_standard_evaluation(self, x_orig, y_orig, bs=250, return_labels=False, state_path=None):
        print("using custom version")
        self.inside.apgd = self.apgd
        return self.inside.run_standard_evaluation(x_orig, y_orig, batch_size=bs)[0]


def test_the_original_is_used_where_it_is_installed_and_finds_the_same(spread, monkeypatch, capfd):
    network = curved()
    labels, budget = predictions(network, spread), {"epsilon": 0.05, "norm": "Linf"}
    calls = [
        lambda: fab_paper(network, spread, labels, norm="L2", steps=20),
        lambda: fab_targeted(network, spread, labels, norm="Linf", steps=20),
        lambda: autoattack(network, spread, labels, attacks=["apgd-dlr"], batch_size=20, **budget),
        lambda: autoattack(network, spread, labels, epsilon=1.0, norm="Linf"),
        lambda: apgd(network, spread, labels, steps=10, **budget),
        lambda: square(network, spread, labels, queries=50, **budget),
    ]
    expected = [call().adversarial for call in calls]
    original = types.ModuleType("autoattack")
    original.AutoAttack = OriginalSignature
    monkeypatch.setitem(sys.modules, "autoattack", original)
    assert import_autoattack() is original
    for call, images in zip(calls, expected, strict=True):
        assert_close(call().adversarial, images, rtol=0, atol=0)
    assert capfd.readouterr().out == ""
