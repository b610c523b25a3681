import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import nn
from torch.testing import assert_close

from margincons.attacks.minimum_norm import minimum_norm
from margincons.classifier import Classifier
from margincons.data import load_images
from margincons.detection import detection, is_brittle
from margincons.detector import attacks
from margincons.detector.attacks import Deceptions, evade, overestimate, wrong_class_margin, wrong_class_pgd
from margincons.detector.climb import plan
from margincons.detector.scored_network import FIRST_ORDER, ScoredNetwork
from margincons.errors import PixelRangeError, ShapeError, UnknownNameError, UsageError
from margincons.labelled_margins import LabelledMargins
from margincons.passes import CountPasses
from margincons.pseudo_margin import fit_pseudo_margin
from margincons.records import read_record
from margincons.scores import first_order_margin, logit_margin
from margincons.zoo import load_model

EPSILON = 0.1


def linear(classes):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, classes)).eval().requires_grad_(False)
    network[1].bias.data = -0.5 * network[1].weight.data.sum(dim=1)  # through the middle of the box
    return network


@pytest.fixture
def images():
    torch.manual_seed(1)
    return 0.15 + 0.7 * torch.rand(40, 1, 4, 4)  # a ball of 0.1 stays inside the box


def reach(network):
    """How far two logits move against each other within the ball: epsilon times the dual norm."""
    return EPSILON * network[1].weight.diff(dim=0).abs().sum()


def test_between_two_classes_each_goal_gets_exactly_as_far_as_the_ball_allows(images):
    network = linear(2)
    margin = logit_margin(network(images))
    away, free = (goal(network, images, epsilon=EPSILON, gradients=30) for goal in (evade, overestimate))
    assert (away.success == (margin < reach(network))).all()
    assert 0 < away.success.sum() < len(images)
    assert_close(away.scores[away.success], (reach(network) - margin)[away.success], atol=1e-4, rtol=0)
    assert free.success.all()
    assert_close(free.scores, reach(network) + margin, atol=1e-4, rtol=0)


def test_between_many_classes_evasion_comes_close_to_the_exact_solution_and_never_beyond(images):
    network, inputs = linear(5), images[:8]
    found = evade(network, inputs, epsilon=EPSILON)
    exact = torch.tensor([best_wrong_margin(network, image) for image in inputs])
    assert (found.scores <= exact + 1e-5).all()
    likely = exact > 0.01
    assert likely.sum() >= 4
    assert (found.scores[likely] >= 0.95 * exact[likely]).all()


def best_wrong_margin(network, image):
    """Largest wrong-class margin in the ball by linear programs: variables are the perturbation and the margin."""
    weight, logits = network[1].weight.double().numpy(), network(image[None])[0].double().numpy()
    best = -np.inf
    for target in set(range(len(logits))) - {logits.argmax()}:
        others = [j for j in range(len(logits)) if j != target]
        rows = np.hstack([weight[others] - weight[target], np.ones((len(others), 1))])  # margin <= f_t - f_j
        cost = np.zeros(weight.shape[1] + 1)
        cost[-1] = -1
        bounds = [(-EPSILON, EPSILON)] * weight.shape[1] + [(None, None)]
        best = max(best, -linprog(cost, A_ub=rows, b_ub=logits[target] - logits[others], bounds=bounds).fun)
    return best


def test_an_image_held_near_a_witness_is_brittle_and_its_score_bounded_by_that(images):
    network = linear(2)
    witnesses = minimum_norm(network, images, network(images).argmax(dim=1))
    near = witnesses.upper <= EPSILON
    inputs, adversarial = images[near], witnesses.adversarial[near]
    held = overestimate(network, inputs, epsilon=EPSILON, witnesses=adversarial, gradients=30)
    assert held.success.all()
    for centre in (inputs, adversarial):
        assert ((held.images - centre).abs() <= EPSILON + 1e-6).all()
    assert (held.scores <= reach(network) + 1e-4).all()  # a linear margin of at most epsilon
    assert (held.scores >= logit_margin(network(inputs)) - 1e-5).all()


@pytest.mark.parametrize("goal", [evade, overestimate, wrong_class_pgd])
@pytest.mark.parametrize("gradients", [7, 40])
def test_what_is_returned_is_in_the_ball_and_the_box_and_scores_what_it_says(goal, gradients):
    model, inputs = load_model("digits/clp"), load_images("digits", n=30).inputs
    counted = CountPasses(model)
    found = goal(counted, inputs, epsilon=0.15, gradients=gradients)
    assert counted.backward_images <= gradients * len(inputs)
    assert counted.verification_images >= 2 * len(inputs)
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    assert ((found.images - inputs).abs() <= 0.15 + 1e-6).all()
    logits, own = model(found.images), model(inputs).argmax(dim=1)
    assert_close(logit_margin(logits)[found.success], found.scores[found.success], rtol=1e-4, atol=1e-4)
    changed = logits.argmax(dim=1) != own
    assert (changed == (found.success & (goal is not overestimate))).all()
    assert (found.predicted == logits.argmax(dim=1)).all()
    assert (found.scores[~found.success] == -torch.inf).all()
    assert torch.equal(found.images[~found.success], inputs[~found.success])


@pytest.mark.parametrize("model_id", ["digits/standard", "digits/trades"])
@pytest.mark.parametrize("radius", [0.1, 0.2])
def test_at_equal_gradients_evasion_gets_past_the_threshold_at_least_as_often_as_plain_pgd(model_id, radius):
    table = read_record(f"{model_id}/Linf/minimum_norm")
    threshold = detection(table, epsilon=EPSILON, replicates=1).threshold95.value
    rows = torch.from_numpy(is_brittle(table, radius).nonzero()[0][:60])
    inputs, model = load_images("digits").inputs[rows], CountPasses(load_model(model_id))
    ours, spent = evade(model, inputs, epsilon=radius), model.backward_images
    for restarts, step_size in ((1, 2.0), (5, 2.0), (5, 1.0)):
        model.backward_images = 0
        plain = wrong_class_pgd(model, inputs, epsilon=radius, restarts=restarts, step_size=step_size)
        assert model.backward_images >= spent
        assert ours.overlooked(threshold).sum() >= plain.overlooked(threshold).sum()


def test_more_gradients_and_another_batch_do_no_harm():
    model, inputs = load_model("digits/trades"), load_images("digits", n=24).inputs
    few, many = (evade(model, inputs, epsilon=0.2, gradients=budget) for budget in (10, 100))
    assert (many.success >= few.success).all()
    assert many.scores[few.success].mean() > few.scores[few.success].mean()
    indices = torch.arange(12, 24)
    half = evade(model, inputs[12:], epsilon=0.2, indices=indices)
    alike = torch.isclose(half.scores, many.scores[12:], atol=1e-3, rtol=0)
    assert alike.float().mean() > 0.8  # last digits may send a path elsewhere
    alone = evade(model, inputs[:1], epsilon=0.2)
    assert_close(alone.scores, many.scores[:1], rtol=0.05, atol=0.01)


def test_the_first_climb_starts_at_the_image_and_later_ones_where_the_seed_says():
    model, inputs = load_model("digits/trades"), load_images("digits", n=24).inputs
    assert plan(1, 1) == [(1, 1)]
    for goal, gradients, alike in ((overestimate, 1, True), (overestimate, 12, False), (evade, 12, False)):
        one, again, other = (
            goal(model, inputs, epsilon=0.2, gradients=gradients, seed=seed).images for seed in (0, 0, 1)
        )
        assert torch.equal(one, again)
        assert torch.equal(one, other) == alike


def test_plain_pgd_takes_shorter_and_shorter_steps_to_a_peak_within_the_ball():
    class Peak(nn.Module):
        """One pixel; class 1 leads around 0.737 by up to 0.2."""

        def forward(self, inputs):
            lead = 0.2 - (inputs.flatten(1)[:, :1] - 0.737).abs()
            return torch.cat([torch.zeros_like(lead), lead], dim=1)

    found = wrong_class_pgd(Peak().eval(), torch.full((1, 1, 1, 1), 0.5), epsilon=0.4, gradients=40)
    assert found.success.all()
    assert (found.images - 0.737).abs().item() <= 0.4 / 40


def test_a_score_at_the_threshold_is_flagged():
    found = Deceptions(
        images=torch.zeros(3, 1, 1, 1),
        success=torch.tensor([True, True, False]),
        scores=torch.tensor([1.0, 1.1, -torch.inf]),
        predicted=torch.zeros(3),
    )
    assert found.overlooked(1.0).tolist() == [False, True, False]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 20))
def test_a_plan_spends_no_more_than_there_is(gradients, targets):
    targets = max(1, min(targets, gradients // 11))
    shares = plan(gradients, targets)
    assert 0.9 * gradients <= sum(kept * steps for kept, steps in shares) <= gradients
    assert shares[0][0] == targets
    assert [kept for kept, _ in shares] == sorted((kept for kept, _ in shares), reverse=True)
    assert all(steps > 0 for _, steps in shares)


@given(st.integers(1, 300), st.integers(1, 20))
def test_a_plan_for_more_targets_than_gradients_pay_for_spends_all_of_them_and_no_more(gradients, targets):
    shares = plan(gradients, targets)
    assert sum(kept * steps for kept, steps in shares) == gradients
    assert all(steps > 0 for _, steps in shares)


@pytest.mark.parametrize("goal", [evade, overestimate, wrong_class_pgd])
def test_in_a_ball_of_no_radius_nothing_moves(images, goal):
    network = linear(4)
    found = goal(network, images, epsilon=0.0, gradients=30)
    assert torch.equal(found.images, images)
    assert torch.equal(found.predicted, network(images).argmax(dim=1))
    assert found.success.all() == (goal is overestimate)  # which keeps the class


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_the_wrong_class_margin_is_the_best_lead_of_any_other_class(seed):
    draw = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(5, 4, generator=draw), torch.randint(4, (5,), generator=draw)
    for row, label, margin in zip(logits, labels, wrong_class_margin(logits, labels), strict=True):
        leads = [row[t] - row[[j for j in range(4) if j != t]].max() for t in range(4) if t != label]
        assert_close(margin, max(leads))


def pseudo_margin(model, inputs):
    outputs = Classifier(model, inputs[:2])(inputs)
    labelled = LabelledMargins(
        outputs=outputs, margins=logit_margin(outputs.logits), data="digits/calibration", left_out=0
    )
    return fit_pseudo_margin(labelled, epochs=5)


def test_every_score_is_the_detectors_own_and_its_gradient_points_uphill():
    model, inputs = (
        load_model("digits/mart").double().requires_grad_(False),
        load_images("digits", n=20).inputs.double(),
    )
    learned = pseudo_margin(load_model("digits/mart"), load_images("digits", split="calibration", n=60).inputs)
    learned.network.double()
    known = {
        "logit_margin": logit_margin(model(inputs)),
        learned: learned(Classifier(model, inputs[:2])(inputs)),
        FIRST_ORDER: first_order_margin(model, inputs, norm="Linf"),
    }
    for score, expected in known.items():
        scored, points = ScoredNetwork(model, inputs[:2], score=score), inputs.clone().requires_grad_()
        _, scores = scored(points)
        assert_close(scores.detach(), expected.double(), rtol=1e-5, atol=1e-6)
        (gradient,) = torch.autograd.grad(scores.sum(), points)
        step = 1e-6 * gradient / gradient.norm()
        rise = (scored(inputs + step)[1] - scored(inputs - step)[1]).detach().sum()
        assert_close(rise, 2e-6 * gradient.norm(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("score", ["learned", FIRST_ORDER, "entropy"])
def test_other_scores_are_raised_beyond_what_the_logit_margin_gives_them_by_the_way(score):
    model, inputs = load_model("digits/pgd_at"), load_images("digits", n=30).inputs
    if score == "learned":
        score = pseudo_margin(model, load_images("digits", split="calibration", n=100).inputs)
    own = overestimate(model, inputs, epsilon=0.1, score=score, gradients=20)
    other = overestimate(model, inputs, epsilon=0.1, gradients=20)
    judged = ScoredNetwork(model, inputs[:2], score=score)(other.images)[1].detach()
    assert own.scores.mean() > judged.mean()


def test_what_cannot_be_meant_is_refused(images):
    network = linear(3)
    with pytest.raises(UsageError, match="did you mean 8/255"):
        evade(network, images, epsilon=8)
    with pytest.raises(PixelRangeError):
        overestimate(network, images * 255, epsilon=0.1)
    for goal in (evade, overestimate):
        with pytest.raises(UsageError, match="one gradient or more, got 0"):
            goal(network, images, epsilon=0.1, gradients=0)
    with pytest.raises(UsageError, match="between one restart and one per gradient"):
        wrong_class_pgd(network, images, epsilon=0.1, gradients=3, restarts=4)
    with pytest.raises(UnknownNameError, match="second_order_margin"):
        evade(network, images, epsilon=0.1, score="second_order_margin")
    for goal, indices in itertools.product((evade, overestimate, wrong_class_pgd), ([0], [0, 1, 2])):
        with pytest.raises(ShapeError, match=r"Expected indices to be one per image, \(40,\)"):
            goal(network, images, epsilon=0.1, indices=torch.tensor(indices))
    with pytest.raises(ShapeError, match="witnesses to be one per image"):
        overestimate(network, images, epsilon=0.1, witnesses=images[:3])
    with pytest.raises(UsageError, match="within 2 epsilon of its image"):
        overestimate(network, images, epsilon=0.1, witnesses=(images + 0.25).clamp(max=1))


def test_a_witness_of_its_images_own_class_proves_nothing_and_is_refused(images):
    network = linear(2)
    found = minimum_norm(network, images, network(images).argmax(dim=1))
    near = found.upper <= 2 * EPSILON
    witnesses = found.adversarial[near]
    assert len(witnesses) > 3
    witnesses[:3] = images[near][:3]  # what an attack returns where it failed
    with pytest.raises(UsageError) as caught:
        overestimate(network, images[near], epsilon=EPSILON, witnesses=witnesses, gradients=2)
    assert f"of another class than its image, 3 of {len(witnesses)} are not" in str(caught.value)


def test_a_deception_is_clamped_to_the_ball_and_has_the_lower_of_the_scores_of_two_batches(images):
    class Company(nn.Module):
        """Class 1 leads by 1 among many images and by 0.5 among few."""

        def forward(self, inputs):
            lead = torch.full((len(inputs),), 1.0 if len(inputs) >= len(images) else 0.5)
            return torch.stack([torch.zeros_like(lead), lead], dim=1) + 0 * inputs.flatten(1)[:, :1]

    scored = ScoredNetwork(Company().eval(), images[:2])
    box = ((images - 0.1).clamp(min=0), (images + 0.1).clamp(max=1))
    own = torch.zeros(len(images), dtype=torch.long)
    found = attacks._judge(scored, images, images + 0.3, box, own, keep=False)
    assert found.success.all()
    assert_close(found.scores, torch.full((len(images),), 0.5))
    assert ((found.images - images) <= 0.1 + 1e-6).all()
