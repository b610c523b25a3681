"""Margins of networks that are linear, whose margins are known; the tightest of several attacks; the cost of each."""

import inspect

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from margincons.attacks.result import WITNESS_FRACTION, AttackResult
from margincons.data import load_images
from margincons.errors import (
    ForwardError,
    LabelRangeError,
    NonFiniteLogitsError,
    PixelRangeError,
    ShapeError,
    UnknownNameError,
    UsageError,
)
from margincons.margins import EFFORTS, FIXED_BUDGET, MINIMUM_NORM, Method, attack_within, input_margins
from margincons.passes import CountPasses, verification
from margincons.threat import NORMS, dual_norm, vector_norm
from margincons.zoo import load_model


class Linear(nn.Module):
    """Linear on images (n, 1, 4, 4); the grey image has all logits 0, so margins near it end inside the pixel box."""

    def __init__(self, classes=4):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, 16, generator=torch.Generator().manual_seed(0)))

    def forward(self, images):
        return (images - 0.5).flatten(1) @ self.weight.T

    def margins(self, images, norm):
        """The least of (f_i - f_j) / ||w_i - w_j||_dual over rivals j: (n,)."""
        logits = self(images).detach()
        own = logits.argmax(dim=1)
        differences = (self.weight[own][:, None] - self.weight[None]).detach()
        lengths = vector_norm(differences.flatten(0, 1), dual_norm(norm)).view(logits.shape)
        distances = (logits.gather(1, own[:, None]) - logits) / lengths
        return distances.scatter(1, own[:, None], torch.inf).amin(dim=1)


@pytest.fixture(scope="module")
def linear():
    return Linear().eval()


@pytest.fixture(scope="module")
def near_grey():
    """Images so near the middle of the box that their nearest boundary points are inside it."""
    return 0.5 + 0.04 * (torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(1)) - 0.5)


def pretend(distance, *, passes=1, failed=()):
    """An attack that moves the first pixel by each image's distance and believes itself; no network is asked."""

    def attack(model, inputs, labels, *, norm):
        for _ in range(passes):
            model(inputs)
        moved = inputs.clone()
        moved[:, 0, 0, 0] = (inputs[:, 0, 0, 0] + distance).clamp(0, 1)
        success = torch.ones(len(inputs), dtype=torch.bool)
        success[list(failed)] = False
        return AttackResult(
            adversarial=torch.where(success.view(-1, 1, 1, 1), moved, inputs),
            success=success,
            upper=torch.where(success, distance, torch.inf),
            adversarial_label=torch.where(success, (labels + 1) % 4, labels),
        )

    return Method(run=attack, efforts={"standard": {}})


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", ["minimum_norm", "fab_restarts"])
def test_margins_of_a_linear_network_are_the_closed_form(linear, near_grey, norm, attack):
    bounds = input_margins(linear, near_grey, norm=norm, attack=attack)
    exact = linear.margins(near_grey, norm)
    assert bounds.success.all()
    assert (bounds.upper >= exact * (1 - 1e-4) - 1e-6).all()  # no attack undershoots
    assert_close(bounds.upper, exact, rtol=0.05 if norm == "L1" else 5e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("attack", "norm"), [*((name, "Linf") for name in MINIMUM_NORM), ("minimum_norm", "L2"), ("minimum_norm", "L1")]
)
def test_every_bound_comes_with_the_image_that_proves_it(linear, near_grey, attack, norm):
    effort = "fast" if "fast" in MINIMUM_NORM[attack].efforts else "standard"
    bounds = input_margins(linear, near_grey[:4], norm=norm, attack=attack, effort=effort)
    logits = linear(bounds.adversarial).detach()
    assert_close(bounds.predicted, linear(near_grey[:4]).argmax(dim=1))
    assert_close(bounds.adversarial_label, logits.argmax(dim=1))
    assert (bounds.adversarial_label != bounds.predicted).all()
    lead = logits.amax(dim=1) - logits.gather(1, bounds.predicted[:, None])[:, 0]
    assert (lead > 0.5 * WITNESS_FRACTION * logits.abs().amax(dim=1)).all()
    assert bounds.adversarial.min() >= 0 and bounds.adversarial.max() <= 1
    assert_close(bounds.upper, vector_norm(bounds.adversarial - near_grey[:4], norm))
    assert bounds.attack == [attack] * 4


def test_all_outputs_are_per_image_and_a_failure_is_infinite_and_flagged():
    class Same(nn.Module):
        def forward(self, images):
            return images.new_tensor([[3.0, 1.0, 0.0]]).expand(len(images), 3) + 0 * images.flatten(1).sum(1)[:, None]

    inputs = torch.rand(5, 1, 4, 4)
    bounds = input_margins(Same(), inputs, effort="fast")
    for name in ("upper", "predicted", "adversarial_label", "success", "forward_passes", "backward_passes"):
        assert getattr(bounds, name).shape == (5,), name
    assert bounds.upper.tolist() == [float("inf")] * 5
    assert not bounds.success.any()
    assert bounds.predicted.tolist() == bounds.adversarial_label.tolist() == [0] * 5
    assert_close(bounds.adversarial, inputs)


def test_against_keeps_the_least_bound_and_the_name_of_its_attack(linear, monkeypatch):
    inputs = torch.full((4, 1, 4, 4), 0.5)
    methods = {
        "first": pretend(torch.tensor([0.1, 0.3, 0.2, 0.4]), passes=2, failed=[3]),
        "second": pretend(torch.tensor([0.2, 0.1, 0.2, 0.4]), passes=3, failed=[0]),
        "third": pretend(torch.tensor([0.3, 0.2, 0.2, 0.3]), passes=4, failed=[3]),
    }
    for name, method in methods.items():
        monkeypatch.setitem(MINIMUM_NORM, name, method)
    bounds = input_margins(linear, inputs, attack="first", against=("second", "third"))
    assert_close(bounds.upper, torch.tensor([0.1, 0.1, 0.2, 0.4]))
    assert bounds.attack == ["first", "second", "first", "second"]  # of equals, the first
    assert bounds.success.all()
    assert_close(vector_norm(bounds.adversarial - inputs, "Linf"), bounds.upper)
    assert_close(bounds.adversarial_label, (bounds.predicted + 1) % 4)
    assert_close(bounds.forward_passes, torch.full((4,), 9.0))


def test_what_no_attack_finds_stays_infinite(linear, monkeypatch):
    for name in ("first", "second"):
        monkeypatch.setitem(MINIMUM_NORM, name, pretend(torch.tensor([0.1, 0.2]), failed=[1]))
    bounds = input_margins(linear, torch.full((2, 1, 4, 4), 0.5), attack="first", against=("second",))
    assert_close(bounds.upper, torch.tensor([0.1, torch.inf]))
    assert bounds.success.tolist() == [True, False]


def test_the_tightest_of_two_real_attacks_is_the_minimum_of_both():
    model, inputs = load_model("digits/mlp"), load_images("digits", n=3).inputs
    ours, theirs = (
        input_margins(model, inputs, attack=name, effort="fast") for name in ("minimum_norm", "fab_restarts")
    )
    both = input_margins(model, inputs, attack="minimum_norm", against=("fab_restarts",), effort="fast")
    assert_close(both.upper, torch.minimum(ours.upper, theirs.upper), rtol=0, atol=0)
    assert_close(both.backward_passes, ours.backward_passes + theirs.backward_passes)


@pytest.mark.parametrize(("steps", "effort"), [(10, "fast"), (40, "standard")])
def test_pgd_costs_one_forward_and_one_backward_pass_a_step_and_one_forward_at_the_end(linear, steps, effort):
    bounds = attack_within(linear, torch.rand(6, 1, 4, 4), epsilon=0.1, attack="pgd", effort=effort)
    assert_close(bounds.forward_passes, torch.full((6,), steps + 1.0))
    assert_close(bounds.backward_passes, torch.full((6,), float(steps)))


def test_fgsm_costs_one_pass_each_way(linear):
    bounds = attack_within(linear, torch.rand(6, 1, 4, 4), epsilon=0.1, attack="fgsm")
    assert (bounds.forward_passes == 1).all()
    assert (bounds.backward_passes == 1).all()


def test_passes_are_counted_by_the_network_and_those_of_verification_apart():
    counted = CountPasses(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    inputs = torch.rand(5, 1, 2, 2, requires_grad=True)
    logits = counted(inputs)
    for own in range(3):
        torch.autograd.grad(logits[:, own].sum(), inputs, retain_graph=True)
    with torch.no_grad():
        counted(inputs[:2])
    with verification(counted):
        counted(inputs[:4])
    with verification(counted.model):
        counted(inputs[:1])
    assert (counted.forward_images, counted.backward_images, counted.verification_images) == (8, 15, 4)


def test_counting_leaves_the_mode_of_the_network_alone():
    for training in (True, False):
        network = nn.Sequential(nn.Dropout()).train(training)
        assert CountPasses(network).training == network.training == training


@pytest.mark.parametrize(("attack", "epsilon"), [("fgsm", 0.15), ("pgd", 0.15), ("autoattack", 0.4)])
def test_a_budget_is_kept_and_what_is_found_is_proven(attack, epsilon):
    model, inputs = load_model("digits/mlp"), load_images("digits", n=12).inputs
    bounds = attack_within(model, inputs, epsilon=epsilon, attack=attack)
    found = bounds.success
    assert found.any()
    assert (bounds.upper[found] <= epsilon + 1e-6).all()
    assert bounds.upper[~found].isinf().all()
    assert (model(bounds.adversarial)[found].argmax(dim=1) == bounds.adversarial_label[found]).all()
    assert (bounds.adversarial_label[found] != bounds.predicted[found]).all()


def test_a_budget_reaches_exactly_the_images_with_a_smaller_margin(near_grey):
    two_classes = Linear(classes=2)
    exact = two_classes.margins(near_grey, "Linf")
    epsilon = exact.median().item() * 1.01
    bounds = attack_within(two_classes, near_grey, epsilon=epsilon, attack="pgd")
    assert_close(bounds.success, exact < epsilon)


def test_the_search_sees_through_the_masked_specimen():
    inputs = load_images("digits", n=40).inputs
    plain, masked = (input_margins(load_model(f"digits/{name}"), inputs) for name in ("standard", "masked"))
    assert_close(masked.upper, plain.upper, rtol=0.02, atol=1e-4)  # logits times 100: the same decisions
    assert_close(masked.predicted, plain.predicted)


def test_a_bound_belongs_to_the_image_and_not_to_its_batch():
    model, inputs = load_model("digits/mlp"), load_images("digits", n=10).inputs
    whole = input_margins(model, inputs, attack="fab_restarts", effort="fast", seed=3)
    rows = torch.tensor([7, 2])
    part = input_margins(model, inputs[rows], attack="fab_restarts", effort="fast", seed=3, indices=rows)
    assert_close(part.upper, whole.upper[rows], rtol=1e-3, atol=1e-5)


def test_more_effort_never_costs_less(linear, near_grey):
    for name, method in (MINIMUM_NORM | FIXED_BUDGET).items():
        assert set(method.efforts) in ({"standard"}, set(EFFORTS)), name
        values = [value for effort in EFFORTS for value in method.efforts.get(effort, {}).values()]
        assert values == sorted(values) or name == "minimum_norm", name
        for fixed in method.efforts.values():
            assert set(fixed) < set(inspect.signature(method.run).parameters), name
    costs = [input_margins(linear, near_grey, effort=effort).backward_passes.mean() for effort in EFFORTS]
    assert costs == sorted(costs)


@pytest.mark.parametrize(
    ("call", "options", "error", "text"),
    [
        (input_margins, {"norm": "L0"}, UnknownNameError, "Unknown norm 'L0'"),
        (
            input_margins,
            {"attack": "fab"},
            UnknownNameError,
            "Unknown minimum-norm attack 'fab'; the nearest are: fab_",
        ),
        (input_margins, {"attack": "pgd"}, UnknownNameError, "(a fixed budget gives no margin) 'pgd'"),
        (input_margins, {"against": ("fgsm",)}, UnknownNameError, "(a fixed budget gives no margin) 'fgsm'"),
        (input_margins, {"effort": "maximal"}, UnknownNameError, "Unknown effort of minimum_norm 'maximal'"),
        (
            input_margins,
            {"attack": "fab_paper", "effort": "fine"},
            UnknownNameError,
            "Unknown effort of fab_paper 'fine'",
        ),
        (attack_within, {"epsilon": 0.1, "attack": "apgd"}, UnknownNameError, "Unknown attack with a budget 'apgd'"),
        (attack_within, {"epsilon": 0.1, "effort": "fine"}, UnknownNameError, "Unknown effort of autoattack 'fine'"),
        (attack_within, {"epsilon": 8, "attack": "pgd"}, UsageError, "did you mean 8/255?"),
        (attack_within, {"epsilon": 0.1, "norm": "L0", "attack": "pgd"}, UnknownNameError, "Unknown norm 'L0'"),
    ],
)
def test_unknown_names_are_refused_before_anything_runs(linear, near_grey, call, options, error, text):
    with pytest.raises(error) as caught:
        call(linear, near_grey, **options)
    assert text in str(caught.value)


def test_no_attack_runs_when_a_later_one_lacks_the_effort(near_grey, monkeypatch):
    monkeypatch.setitem(MINIMUM_NORM, "first", Method(run=None, efforts={"fine": {}}))
    with pytest.raises(UnknownNameError, match="Unknown effort of fab_paper 'fine'"):
        input_margins(None, near_grey, attack="first", against=("fab_paper",), effort="fine")


def test_images_out_of_range_are_refused(linear, near_grey):
    for call, options in ((input_margins, {}), (attack_within, {"epsilon": 0.1})):
        with pytest.raises(PixelRangeError, match="divide by 255"):
            call(linear, 255 * near_grey, **options)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"predicted": torch.full((8,), 4)}, LabelRangeError, "Expected labels 0 to 3"),
        ({"predicted": torch.full((8,), -1)}, LabelRangeError, "Expected labels 0 to 3"),
        ({"predicted": torch.zeros(7, dtype=torch.long)}, ShapeError, "Expected predicted to be one per image, (8,)"),
        ({"predicted": torch.zeros(8)}, ShapeError, "got (8,) torch.float32"),
        ({"indices": torch.arange(7)}, ShapeError, "Expected indices to be one per image, (8,)"),
    ],
)
def test_classes_and_indices_that_do_not_fit_the_images_are_refused(linear, near_grey, options, error, text):
    with pytest.raises(error) as caught:
        input_margins(linear, near_grey, effort="exhaustive", **options)
    assert text in str(caught.value)


class Broken(nn.Module):
    """A sound network whose logits something is done to."""

    def __init__(self, after):
        super().__init__()
        self.network, self.after = Linear(), after

    def forward(self, images):
        return self.after(self.network(images))


@pytest.mark.parametrize(
    ("after", "error", "text"),
    [
        (lambda logits: logits.index_fill(0, torch.tensor([3]), torch.nan), NonFiniteLogitsError, "on 1 of 8 images"),
        (lambda logits: logits[:, :1], ShapeError, "logits (n, k) of two classes or more, got (8, 1); where one logit"),
        (lambda logits: (logits, logits), ShapeError, "to be logits (n, k), got tuple."),
        (lambda logits: {}["logits"], ForwardError, "its forward pass failed: KeyError: 'logits'."),
    ],
)
def test_what_a_measurement_refuses_of_a_network_is_refused_without_one(near_grey, after, error, text):
    for call, options in ((input_margins, {}), (attack_within, {"epsilon": 0.1, "attack": "pgd"})):
        with pytest.raises(error) as caught:
            call(Broken(after), near_grey, **options)
        assert text in str(caught.value)


@pytest.mark.parametrize("known", [{}, {"predicted": torch.zeros(8, dtype=torch.long)}])
def test_images_of_another_precision_than_the_weights_are_refused_and_of_the_same_measured(linear, near_grey, known):
    with pytest.raises(ShapeError, match=r"the images are torch.float64, its weights torch.float32: convert one"):
        input_margins(linear, near_grey.double(), **known)
    bounds = input_margins(Linear().double().eval(), near_grey.double())
    assert_close(bounds.upper, Linear().double().margins(near_grey.double(), "Linf"), rtol=5e-3, atol=1e-5)


def test_one_further_attack_may_be_named_without_a_tuple(linear, near_grey):
    bounds = [input_margins(linear, near_grey[:2], against=names) for names in ("fab_paper", ("fab_paper",))]
    assert_close(bounds[0].upper, bounds[1].upper, rtol=0, atol=0)
    assert bounds[0].attack == bounds[1].attack
    with pytest.raises(UnknownNameError, match="'fab_paperr'; the nearest are: fab_paper"):
        input_margins(linear, near_grey, against="fab_paperr")


def test_a_network_is_not_its_name(near_grey):
    with pytest.raises(UsageError, match=r"Expected a network, a torch\.nn\.Module, got the str 'digits/trades';"):
        input_margins("digits/trades", near_grey)
