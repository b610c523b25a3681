"""Truth: closed forms of linear networks in the box, a grid over two pixels, and the exact solver."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from margincons import load_model
from margincons.attacks import minimum_norm as module
from margincons.attacks.boundary_step import descend_in_ball, falling_rate, scale_in_box, shrink_in_box
from margincons.attacks.crossings import Crossings
from margincons.attacks.descent import Descent, descend
from margincons.attacks.minimum_norm import EFFORTS, minimum_norm, search
from margincons.attacks.randomness import uniform
from margincons.data import load_images
from margincons.errors import PixelRangeError, ShapeError, UnknownNameError
from margincons.passes import CountPasses
from margincons.threat import NORMS, dual_norm, vector_norm

SHAKEN = Descent(steps=6, lengths=(1.0, 0.1), momentum=(0.05, 0.8), shaken=0.5)


class Affine(nn.Module):
    """Logits = scale * (weight @ pixels + bias), in any number of classes."""

    def __init__(self, classes, pixels, seed, scale=1.0):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.weight = torch.randn(classes, pixels, generator=draw)
        self.bias = 0.5 * torch.randn(classes, generator=draw) - self.weight.sum(dim=1) / 2
        self.scale = scale

    def forward(self, inputs):
        return self.scale * (inputs.flatten(1) @ self.weight.T + self.bias)


def affine_margin(network, image, norm):
    """The least distance, in the box, at which some rival is level: bisection on the reach of the best move."""
    pixels = image.flatten().double()
    gaps = network.weight.double() @ pixels + network.bias.double()
    own = gaps.argmax()
    margins = [
        _level(network.weight.double()[own] - network.weight.double()[rival], gaps[own] - gaps[rival], pixels, norm)
        for rival in range(len(gaps))
        if rival != own
    ]
    return min(margins)


def another_class_holds_a_corner(network, image):
    """Whether some corner of the box belongs to another class, by a hundredth of the logits."""
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * image.numel()).view(-1, *image.shape)
    own, logits = network(image[None]).argmax(), network(corners)
    rivals = logits.masked_fill(torch.arange(logits.shape[1]) == own, -torch.inf).amax(dim=1)
    return bool((rivals - logits[:, own] > 0.01 * logits.abs().amax(dim=1)).any())


def _level(slope, gap, pixels, norm):
    room = torch.where(slope > 0, pixels, 1 - pixels)
    if (slope.abs() * room).sum() < gap:
        return float("inf")
    if norm == "L1":
        order = slope.abs().argsort(descending=True)
        falls = (slope.abs() * room)[order].cumsum(0)
        last = int((falls < gap).sum())
        missing = gap - (falls[last - 1] if last else 0)
        return float(room[order][:last].sum() + missing / slope.abs()[order][last])
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        move = torch.minimum(room, torch.full_like(room, middle) if norm == "Linf" else middle * slope.abs())
        low, high = (low, middle) if (slope.abs() * move).sum() >= gap else (middle, high)
    move = torch.minimum(room, torch.full_like(room, high) if norm == "Linf" else high * slope.abs())
    return float(vector_norm(move[None], norm))


def some_images(count, shape, seed, edge=0.3):
    """Uniform images with a good part of the pixels at exactly 0 and 1."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.rand(count, *shape, generator=draw)
    decided = torch.rand(count, *shape, generator=draw)
    return images.masked_fill(decided < edge / 2, 0.0).masked_fill(decided > 1 - edge / 2, 1.0)


def attack(network, images, **options):
    labels = network(images).argmax(dim=1)
    return minimum_norm(network, images, labels, **options), labels


@pytest.fixture(scope="module")
def digits():
    return load_images("digits").inputs[:60]


@pytest.fixture(scope="module")
def network():
    return load_model("digits/pgd_at")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("classes", "shape"), [(2, (1, 1, 1)), (2, (1, 4, 4)), (10, (1, 6, 6)), (5, (3, 5, 4))])
def test_margins_of_linear_networks_are_exact_inside_the_box(norm, classes, shape):
    network = Affine(classes, shape[0] * shape[1] * shape[2], seed=4)
    images = some_images(24, shape, seed=1)
    result, _ = attack(network, images, norm=norm, effort="fine")
    exact = torch.tensor([affine_margin(network, image, norm) for image in images])
    assert exact.isfinite().all()
    assert_close(result.upper, exact.float(), rtol=1e-4, atol=1e-4)
    assert (result.upper >= exact * (1 - 1e-5) - 1e-7).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("effort", EFFORTS)
def test_every_effort_ends_at_the_nearest_of_ten_rivals_of_a_linear_network(norm, effort):
    network, images = Affine(10, 300, seed=3), some_images(40, (3, 10, 10), seed=2)
    result, _ = attack(network, images, norm=norm, effort=effort)
    exact = torch.tensor([affine_margin(network, image, norm) for image in images])
    assert_close(result.upper, exact.float(), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("effort", EFFORTS)
def test_a_rival_is_found_however_far_it_seems_where_the_box_holds_no_other(norm, effort):
    searched = 0
    for seed in range(8):
        network, images = Affine(10, 2, seed=seed), some_images(20, (1, 1, 2), seed=seed, edge=0)
        network.bias = 0.3 * torch.randn(10, generator=torch.Generator().manual_seed(seed))
        result, _ = attack(network, images, norm=norm, effort=effort)
        reachable = torch.tensor([another_class_holds_a_corner(network, image) for image in images])
        assert result.success[reachable].all()
        searched += int(reachable.sum())
    assert searched > 100


@given(seed=st.integers(0, 10_000), norm=st.sampled_from(NORMS))
@settings(max_examples=25, deadline=None)
def test_no_bound_is_below_the_margin_found_on_a_fine_grid_of_two_pixels(seed, norm):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    images = torch.rand(4, 1, 1, 2)
    with torch.no_grad():
        result, labels = attack(network, images, norm=norm, effort="fast")
        side = torch.linspace(0, 1, 301)
        grid = torch.cartesian_prod(side, side).view(-1, 1, 1, 2)
        elsewhere = network(grid).argmax(dim=1)
    for image, label, upper in zip(images, labels, result.upper, strict=True):
        distances = vector_norm(grid - image, norm)[elsewhere != label]
        nearest = distances.min().item() if len(distances) else float("inf")
        assert upper >= nearest - 2 / 300  # a cell of the grid: no crossing can hide far from all of its points


def test_every_image_returned_is_adversarial_alone_in_the_box_and_at_its_distance(network, digits):
    for norm in NORMS:
        result, labels = attack(network, digits, norm=norm)
        alone = torch.cat([network(image[None]) for image in result.adversarial]).argmax(dim=1)
        assert result.success.all()
        assert (alone != labels).all() and (alone == result.adversarial_label).all()
        assert result.adversarial.min() >= 0 and result.adversarial.max() <= 1
        assert_close(result.upper, vector_norm(result.adversarial - digits, norm))


def test_more_effort_is_tighter_on_average(network, digits):
    means = [attack(network, digits, effort=effort)[0].upper.mean() for effort in ("fast", "standard", "fine")]
    assert means[0] > means[1] > means[2]


def test_efforts_cost_what_they_say(network, digits):
    labels = network(digits).argmax(dim=1)
    for effort, settings_of in EFFORTS.items():
        if len(settings_of.settle) > 2:
            continue
        settings_of = settings_of.small or settings_of  # noqa: PLW2901
        counted = CountPasses(network)
        search(counted, digits, labels, effort=effort)
        backward, forward = counted.backward_images / len(digits), counted.forward_images / len(digits)
        steps = settings_of.explore.steps + sum(descent.steps for descent in settings_of.settle)
        times = 1 + len(settings_of.settle) + settings_of.each_rival * settings_of.rivals
        exchanged = times * (digits[0].numel() + 9) if settings_of.settle else 0
        assert steps <= backward <= steps + 0.8 * (settings_of.rivals - 1) * settings_of.explore.steps
        assert forward <= backward + 12 + exchanged


@pytest.mark.parametrize("scale", [100.0, 1e4])
def test_scaling_the_logits_hardly_changes_a_margin(scale):
    images = some_images(20, (1, 4, 4), seed=3)
    plain, masked = Affine(4, 16, seed=2), Affine(4, 16, seed=2, scale=scale)
    exact = torch.tensor([affine_margin(plain, image, "Linf") for image in images])
    assert (attack(masked, images)[0].upper >= exact * (1 - 1e-5) - 1e-7).all()
    # Rivals within 2% of each other may be taken for one another, and rounding then decides.
    assert_close(attack(masked, images)[0].upper, attack(plain, images)[0].upper, rtol=0.02, atol=1e-5)


def test_a_network_with_masked_gradients_gives_witnesses_or_flagged_infinities(digits):
    network = load_model("digits/masked")
    result, labels = attack(network, digits)
    left = network(result.adversarial).argmax(dim=1) != labels
    assert (left == result.success).all()
    assert (result.upper.isfinite() == result.success).all()
    assert (result.adversarial[~result.success] == digits[~result.success]).all()


def test_a_staircase_without_gradients_fails_openly():
    class Staircase(nn.Module):
        def forward(self, inputs):
            steps = (4 * inputs.flatten(1).mean(dim=1, keepdim=True)).round() + 0 * inputs.sum()
            return torch.cat([steps, 2 - steps], dim=1)

    result, _ = attack(Staircase(), some_images(10, (1, 4, 4), seed=0))
    assert not result.success.any() and result.upper.isinf().all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_constant_network_has_infinite_margins(norm):
    class Constant(nn.Module):
        def forward(self, inputs):
            return inputs.flatten(1).sum(dim=1, keepdim=True) * 0 + torch.tensor([1.0, 2.0, 0.0])

    images = some_images(5, (3, 4, 4), seed=0)
    result, _ = attack(Constant(), images, norm=norm)
    assert result.upper.isinf().all() and (result.adversarial == images).all()


def test_an_image_on_the_boundary_has_a_witness_next_to_it():
    network = Affine(2, 16, seed=0)
    images = some_images(8, (1, 4, 4), seed=0, edge=0)
    network.bias = torch.zeros(2)
    network.weight = network.weight - network.weight.mean(dim=1, keepdim=True)
    images[:] = 0.5  # both logits are 0 up to rounding: a tie
    result, labels = attack(network, images)
    assert result.success.all() and (result.upper < 1e-4).all()
    assert (network(result.adversarial).argmax(dim=1) != labels).all()


def test_an_image_that_is_misclassified_already_is_its_own_witness(network, digits):
    labels = (network(digits).argmax(dim=1) + 1) % 10
    result = minimum_norm(network, digits, labels, effort="fast")
    assert (result.upper == 0).all() and (result.adversarial == digits).all()


def test_gradients_that_are_not_finite_do_not_spoil_the_search():
    class Rooted(nn.Module):
        """The root's slope at 0 is infinite, and times a weight of 0 it is not a number."""

        def forward(self, inputs):
            pixels = inputs.flatten(1)
            weights = (torch.arange(pixels.shape[1]) % 2).float()
            roots = (pixels * weights).sqrt().mean(dim=1)
            return torch.stack([2 * pixels.mean(dim=1), 1 - 0.1 * roots], dim=1)

    images = some_images(20, (1, 4, 4), seed=0)
    images.requires_grad_()
    assert not torch.autograd.grad(Rooted()(images).sum(), images)[0].isfinite().all()
    for norm in NORMS:
        result, labels = attack(Rooted(), images.detach(), norm=norm)
        assert (Rooted()(result.adversarial).argmax(dim=1) != labels)[result.success].all()
        assert result.success.float().mean() >= 0.9


def test_an_image_whose_search_never_crossed_is_pushed_on_along_its_last_perturbation():
    class Flattening(nn.Module):
        """The gap decays like exp(-60 r), so Newton's rule gains 1/60 a step and needs more steps than there are."""

        def forward(self, inputs):
            decayed = torch.exp(-60 * inputs.flatten(1).mean(dim=1))
            return torch.stack([decayed, torch.full_like(decayed, 1e-12)], dim=1)

    images = 0.01 * some_images(10, (1, 4, 4), seed=0)
    result, _ = attack(Flattening(), images, effort="fast")
    exact = math.log(1e12) / 60 - images.flatten(1).mean(dim=1)
    assert result.success.all() and (result.upper >= exact * (1 - 1e-5)).all()


def test_the_place_in_the_batch_hardly_matters(network, digits):
    whole, labels = attack(network, digits)
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    shuffled = [minimum_norm(network, digits[part], labels[part]).upper for part in order.split(7)]
    change = torch.cat(shuffled) / whole.upper[order] - 1
    assert (change.abs() < 1e-3).float().mean() >= 0.95 and change.abs().max() < 0.05


def test_random_starts_belong_to_the_image_and_the_seed(network, digits, monkeypatch):
    brief = replace(
        EFFORTS["exhaustive"], explore=Descent(steps=6, lengths=(2, 2), momentum=(0, 0)), settle=(SHAKEN,) * 2
    )
    monkeypatch.setitem(module.EFFORTS, "exhaustive", brief)
    images, labels = digits[:8], network(digits[:8]).argmax(dim=1)
    options = {"effort": "exhaustive", "indices": torch.arange(100, 108)}
    first = search(network, images, labels, seed=1, **options)
    backwards = search(
        network, images.flip(0), labels.flip(0), seed=1, **options | {"indices": options["indices"].flip(0)}
    )
    assert_close(backwards.flip(0), first, rtol=0, atol=1e-3)
    assert (search(network, images, labels, seed=2, **options) != first).any()


def test_each_settling_descent_of_the_exhaustive_effort_draws_its_own_start(network, digits, monkeypatch):
    drawn = []

    def noted(shape, *, restart, **key):
        drawn.append(restart)
        return uniform(shape, restart=restart, **key)

    monkeypatch.setattr(module, "uniform", noted)
    search(network, digits[:2], network(digits[:2]).argmax(dim=1), effort="exhaustive")
    assert len(drawn) == len(set(drawn)) == len(EFFORTS["exhaustive"].settle)


def test_a_descent_towards_a_farther_rival_never_looks_beyond_the_nearest_crossing():
    """Class 1 is entered at a distance of 0.1, class 2 at 0.3."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    network[1].weight.data = torch.tensor([[0.0] * 4, [1.0] * 4, [0.0, 0.0, -1.0, -1.0]])
    network[1].bias.data = torch.tensor([0.0, -2.4, 0.4])
    image, everyone = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.long)
    nearest = Crossings.none_yet(network, image, everyone, "Linf")
    across = torch.full_like(image, 0.101)
    nearest.update(everyone, torch.tensor([0.101]), across, network(image + across), torch.tensor([4.0]))
    seen = []
    hook = network.register_forward_pre_hook(lambda _, points: seen.append((points[0] - image).abs().amax().item()))
    descend(nearest, (everyone, torch.tensor([2])), torch.zeros_like(image), EFFORTS["standard"].settle[0])
    hook.remove()
    assert len(seen) > 3 and 0.1 < max(seen) <= 0.101 + 1e-6
    assert nearest.rival.item() == 1


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_shaking_draws_a_share_of_the_pixels_within_the_radius_and_keeps_the_others(norm):
    inputs, radius = torch.full((20, 1, 8, 8), 0.5), torch.linspace(0.05, 0.5, 20)
    nearest = Crossings.none_yet(nn.Flatten(), inputs, torch.zeros(20, dtype=torch.long), norm)
    nearest.radius, nearest.delta = radius, torch.full_like(inputs, 0.01)
    draws = torch.rand_like(inputs)
    shaken, drawn = module._shaken(nearest, draws, 0.5), draws < 0.5
    assert_close(shaken[~drawn], nearest.delta[~drawn])
    alone = torch.where(drawn, shaken, 0)
    assert (vector_norm(alone, norm) <= radius * (1 + 1e-5)).all()
    assert (vector_norm(alone, norm) >= radius * (0.9 if norm == "Linf" else 0.999)).all()
    assert (alone > 0).any() and (alone < 0).any()


def test_a_thousand_classes_cost_no_more_gradients_than_ten():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU())
    heads = nn.Linear(32, 10), nn.Linear(32, 1000)
    images, backward = some_images(30, (1, 8, 8), seed=0), []
    for head in heads:
        counted = CountPasses(nn.Sequential(body, head))
        with torch.no_grad():
            labels = counted(images).argmax(dim=1)
        search(counted, images, labels)
        backward.append(counted.backward_images)
    assert backward[1] < 1.5 * backward[0]


def test_rivals_are_ranked_by_distance_and_not_by_gap():
    """Class 1 leads in logits, class 2 is nearer: its row of the head is six times farther from class 0's."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
    network[1].weight.data = torch.tensor([[1.0, 0, 0, 0], [0.9, 0.1, 0, 0], [0.0, 0, 0.8, 0.0]])
    images = torch.tensor([0.9, 0.1, 0.5, 0.5]).view(1, 1, 2, 2)
    labels = torch.zeros(1, dtype=torch.long)
    head = module.Classifier(network, images).head
    one = replace(EFFORTS["fast"], rivals=1)
    assert module._nearest_rivals(network(images), labels, None, one)[1] == 1
    assert module._nearest_rivals(network(images), labels, head, one)[1] == 2


def test_rivals_come_with_the_logarithm_of_their_gap_over_the_distance_of_the_rows_of_the_head():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
    images = torch.rand(5, 1, 2, 2)
    logits, head = network(images), module.Classifier(network, images).head
    labels = logits.argmax(dim=1)
    image, rival, prior = module._nearest_rivals(logits, labels, head, replace(EFFORTS["fine"], gap_ratio=1e9))
    assert len(image) == 10
    gap = logits[image, labels[image]] - logits[image, rival]
    assert_close(prior, (gap / (head.weight[rival] - head.weight[labels[image]]).norm(dim=1)).log())


def test_a_search_in_bfloat16_is_still_verified_and_nearly_as_tight(network, digits):
    full, labels = attack(network, digits)
    seen = []
    hook = network.register_forward_hook(lambda module, inputs, logits: seen.append(logits.dtype))
    low, _ = attack(network, digits, bf16=True)
    hook.remove()
    assert torch.bfloat16 in seen and seen[-1] == torch.float32
    assert (network(low.adversarial).argmax(dim=1) != labels).all()
    assert low.upper.mean() < 1.05 * full.upper.mean()


def test_an_empty_batch_is_no_special_case_and_a_single_class_has_no_margin():
    network = Affine(3, 4, seed=0)
    nothing = torch.zeros(0, 1, 2, 2)
    assert len(minimum_norm(network, nothing, torch.zeros(0, dtype=torch.long)).upper) == 0
    with pytest.raises(ShapeError, match=r"two classes or more, got .*; where one logit decides by its sign"):
        minimum_norm(Affine(1, 4, seed=0), torch.rand(2, 1, 2, 2), torch.zeros(2, dtype=torch.long))


def test_unknown_efforts_and_images_on_another_scale_are_refused(network, digits):
    labels = torch.zeros(len(digits), dtype=torch.long)
    with pytest.raises(UnknownNameError, match="Unknown effort 'standart'; the nearest are: standard"):
        minimum_norm(network, digits, labels, effort="standart")
    with pytest.raises(UnknownNameError, match="Unknown norm 'linf'"):
        minimum_norm(network, digits, labels, norm="linf")
    with pytest.raises(PixelRangeError, match="divide by 16"):
        minimum_norm(network, digits * 16, labels)


@pytest.mark.parametrize("norm", NORMS)
def test_a_gap_falls_as_fast_as_the_best_small_move_that_the_box_allows(norm):
    images = some_images(6, (1, 3, 3), seed=0)
    gradient = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    radius, gap = torch.full((6,), 1e-3), torch.full((6,), 1e-6)
    rate = falling_rate(gradient, images, gap, norm)
    free = gradient * torch.where(gradient > 0, images > 0, images < 1)
    best = vector_norm(free, dual_norm(norm))
    assert_close(rate, best, rtol=1e-4, atol=1e-6)
    move = descend_in_ball(torch.zeros_like(images), gradient, inputs=images, radius=radius, length=4.0, norm=norm)
    move = (images + move).clamp(0, 1) - images
    assert (vector_norm(move, norm) <= radius * (1 + 1e-4)).all()
    fall = -(move * gradient).flatten(1).sum(1) / radius
    assert (fall <= rate * (1 + 1e-4)).all()
    if norm != "L1":  # there one step is not yet the vertex
        assert_close(fall, rate, rtol=1e-3, atol=1e-5)


def test_in_l1_the_rate_is_what_filling_the_steepest_pixels_first_gives():
    images = some_images(5, (1, 3, 3), seed=2)
    gradient = torch.randn(images.shape, generator=torch.Generator().manual_seed(3))
    gap = torch.tensor([0.01, 0.3, 1.0, 1.5, 2.0])
    rates = falling_rate(gradient, images, gap, "L1")
    for image, slope, missing, rate in zip(images.flatten(1), gradient.flatten(1), gap.tolist(), rates, strict=True):
        length, left = 0.0, missing
        for pixel in slope.abs().argsort(descending=True).tolist():
            room = (image[pixel] if slope[pixel] > 0 else 1 - image[pixel]).item()
            step = min(room, left / slope[pixel].abs().item())
            length, left = length + step, left - step * slope[pixel].abs().item()
        assert_close(rate.item(), missing / length, rtol=1e-4, atol=0)


@given(seed=st.integers(0, 10_000), radius=st.floats(0.01, 4))
@settings(max_examples=50, deadline=None)
def test_shrinking_gives_the_nearest_point_of_ball_and_box(seed, radius):
    torch.manual_seed(seed)
    inputs, deltas, radii = torch.rand(1, 1, 2, 4), torch.randn(1, 1, 2, 4), torch.tensor([radius])
    nearest = shrink_in_box(deltas, inputs=inputs, radius=radii)
    others = (inputs + torch.randn(500, 1, 2, 4)).clamp(0, 1) - inputs
    others = others * (radii / vector_norm(others, "L1").view(-1, 1, 1, 1)).clamp(max=1)
    assert vector_norm(nearest, "L1") <= radius * (1 + 1e-5)
    assert (inputs + nearest).min() >= -1e-6 and (inputs + nearest).max() <= 1 + 1e-6
    obtuse = ((deltas - nearest) * (others - nearest)).flatten(1).sum(1)
    assert (obtuse <= 1e-4).all()  # what marks a projection on a convex set


@given(seed=st.integers(0, 10_000), radius=st.floats(0.01, 2))
@settings(max_examples=50, deadline=None)
def test_scaling_reaches_the_radius_where_the_box_has_room(seed, radius):
    torch.manual_seed(seed)
    inputs, deltas, radii = torch.rand(1, 1, 6, 6), torch.randn(1, 1, 6, 6), torch.tensor([radius])
    scaled = scale_in_box(deltas, inputs=inputs, radius=radii)
    assert vector_norm(scaled, "L2") <= radius * (1 + 1e-5)
    assert (inputs + scaled).min() >= -1e-6 and (inputs + scaled).max() <= 1 + 1e-6
    assert vector_norm(scaled, "L2") >= 0.97 * radius
    free = (inputs + scaled > 0) & (inputs + scaled < 1)
    ratio = (scaled / deltas)[free]
    assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-3, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
def test_no_bound_is_below_the_exact_margin(norm):
    from margincons.certificates.exact import exact_margins

    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4)).eval()
    images = some_images(12, (1, 4, 4), seed=5)
    result, _ = attack(network, images, norm=norm, effort="fine")
    exact = exact_margins(network, images, norm=norm, time_limit=20)
    assert (result.upper >= exact.lower - 1e-6).all()
    if norm != "L2":
        assert (result.upper <= exact.upper * 1.05 + 1e-4).float().mean() > 0.9
