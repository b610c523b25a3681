import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from margincons.attacks.result import (
    STRETCHES,
    WITNESS_FRACTION,
    AttackResult,
    leads_clearly,
    rival_lead,
    step_outwards,
)
from margincons.errors import PixelRangeError

ORDERS = {"Linf": 1, "L2": 2, "L1": torch.inf}  # the dual norm's exponent


class Halfspace(nn.Module):
    """Class 1 where direction . image > 1/2 of its sum: margins and nearest points in closed form."""

    def __init__(self):
        super().__init__()
        self.direction = torch.tensor([4.0, -2.0, 1.0, 3.0])

    def forward(self, images):
        side = (images.flatten(1) - 0.5) @ self.direction
        return torch.stack([-side, side], dim=1) / 2

    def nearest(self, images, norm):
        """The exact margin and the step that reaches the boundary."""
        side = (images.flatten(1) - 0.5) @ self.direction
        steps = {
            "Linf": self.direction.sign() / self.direction.abs().sum(),
            "L2": self.direction / self.direction.square().sum(),
            "L1": torch.tensor([1.0, 0, 0, 0]) / self.direction.abs().max(),
        }
        margin = side.abs() / self.direction.norm(p=ORDERS[norm])
        return margin, -(side[:, None] * steps[norm]).view_as(images)


class BatchNoise(nn.Module):
    """Adds to each logit a noise of fixed relative size that changes with the place and the size of the batch."""

    def __init__(self, network, *, relative=1e-6):
        super().__init__()
        self.network, self.relative = network, relative

    def forward(self, images):
        logits = self.network(images)
        entry = torch.arange(logits.numel()).view_as(logits)
        noise = torch.sin(entry * 12.9898 + len(images) * 78.233).sign()
        return logits + self.relative * logits.abs().amax(dim=1, keepdim=True) * noise


@pytest.fixture
def halfspace():
    return Halfspace().eval()


@pytest.fixture
def images():
    torch.manual_seed(0)
    return 0.4 + 0.2 * torch.rand(40, 1, 2, 2)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_upper_is_the_distance_to_the_candidate_and_only_beyond_the_boundary(halfspace, images, norm):
    labels = halfspace(images).argmax(dim=1)
    margin, step = halfspace.nearest(images, norm)
    beyond = AttackResult.judge(halfspace, images, images + 1.01 * step, labels, norm=norm)
    assert beyond.success.all()
    assert_close(beyond.upper, 1.01 * margin, rtol=1e-4, atol=1e-7)
    assert_close(beyond.adversarial_label, 1 - labels)
    short = AttackResult.judge(halfspace, images, images + 0.99 * step, labels, norm=norm)
    assert not short.success.any()
    assert (short.upper == torch.inf).all()
    assert_close(short.adversarial, images, rtol=0, atol=0)
    assert_close(short.adversarial_label, labels)


def test_a_witness_survives_noise_of_1e_6_in_any_batch(halfspace, images):
    network = BatchNoise(halfspace)
    labels = halfspace(images).argmax(dim=1)
    _, step = halfspace.nearest(images, "Linf")
    past = 1 + torch.logspace(-7, -1, 40).view(-1, 1, 1, 1)  # from a hair across to well across
    result = AttackResult.judge(network, images, images + past * step, labels, norm="Linf")
    assert 0 < result.success.sum() < 40
    assert_close(result.adversarial_label, torch.where(result.success, 1 - labels, labels))
    kept, left = result.adversarial[result.success], labels[result.success]
    for size in range(1, len(kept) + 1):
        others = torch.cat([network(part).argmax(dim=1) for part in kept.split(size)])
        assert (others != left).all()


def test_a_hair_across_the_boundary_is_no_witness_at_any_scale_of_logits():
    leads = torch.tensor([-1.0, 0.0, 0.5, 0.99, 1.01, 3.0]) * WITNESS_FRACTION
    logits = torch.stack([torch.zeros(6), leads, torch.full((6,), -1.0)], dim=1)  # the largest |logit| is 1
    for scale in (1e-3, 1.0, 1e3):
        clear = leads_clearly(scale * logits, torch.zeros(6, dtype=torch.long))
        assert_close(clear, torch.tensor([False] * 4 + [True] * 2))


@pytest.mark.parametrize("flipped", [False, True])
def test_adversarial_in_one_batch_only_is_no_witness(images, flipped):
    class Company(nn.Module):
        """One class among twenty images or more, the other among fewer."""

        def forward(self, images):
            return torch.eye(2)[int((len(images) >= 20) != flipped)].repeat(len(images), 1)

    result = AttackResult.judge(Company(), images, images, torch.zeros(40, dtype=torch.long), norm="L2")
    assert not result.success.any()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
def test_small_batches_are_judged_like_large_ones(halfspace, images, count):
    labels = halfspace(images).argmax(dim=1)
    margin, step = halfspace.nearest(images, "L2")
    result = AttackResult.judge(
        halfspace, images[:count], images[:count] + 1.1 * step[:count], labels[:count], norm="L2"
    )
    assert_close(result.upper, 1.1 * margin[:count], rtol=1e-4, atol=1e-7)


def test_an_image_that_is_misclassified_is_its_own_witness_at_distance_0(halfspace, images):
    wrong = 1 - halfspace(images).argmax(dim=1)
    result = AttackResult.judge(halfspace, images, images, wrong, norm="Linf")
    assert result.success.all()
    assert (result.upper == 0).all()
    assert_close(result.adversarial_label, 1 - wrong)


def test_a_candidate_of_nan_is_a_failure_not_a_distance(halfspace, images):
    labels = halfspace(images).argmax(dim=1)
    for poison in (torch.nan, torch.inf, -torch.inf):
        result = AttackResult.judge(halfspace, images, torch.full_like(images, poison), labels, norm="L2")
        assert not result.success.any()
        assert (result.upper == torch.inf).all()
        assert_close(result.adversarial, images, rtol=0, atol=0)


def test_a_network_that_answers_nan_has_no_witness(images):
    class Broken(nn.Module):
        def forward(self, images):
            return torch.tensor([[0.0, torch.nan]]).repeat(len(images), 1)

    for label in (0, 1):
        labels = torch.full((40,), label)
        assert not AttackResult.judge(Broken(), images, images, labels, norm="L2").success.any()


def test_a_candidate_outside_the_box_is_clamped_and_measured_where_it_lands(halfspace):
    image, label = torch.full((1, 1, 2, 2), 0.45), torch.tensor([0])
    far = torch.tensor([9.0, -9.0, 0.45, 0.45]).view(1, 1, 2, 2)
    result = AttackResult.judge(halfspace, image, far, label, norm="Linf")
    assert_close(result.adversarial.flatten(), torch.tensor([1.0, 0.0, 0.45, 0.45]))
    assert_close(result.upper, torch.tensor([0.55]))


def test_upper_belongs_to_the_single_precision_image_that_is_returned(halfspace, images):
    labels = halfspace(images).argmax(dim=1)
    _, step = halfspace.nearest(images, "Linf")
    candidates = images.double() + 1.01 * step.double() + 1e-12
    result = AttackResult.judge(halfspace, images, candidates, labels, norm="Linf")
    assert result.adversarial.dtype == torch.float32
    assert_close(result.upper, (result.adversarial - images).abs().amax(dim=(1, 2, 3)), rtol=0, atol=0)


def test_a_distance_keeps_no_graph_of_images_that_want_a_gradient(halfspace, images):
    wanting = images.clone().requires_grad_()
    result = AttackResult.judge(halfspace, wanting, images, torch.zeros(len(images), dtype=torch.long), norm="L2")
    assert not result.upper.requires_grad
    assert not result.adversarial.requires_grad


def test_clean_images_outside_the_box_are_refused(halfspace, images):
    with pytest.raises(PixelRangeError, match=r"Expected images in \[0, 1\]"):
        AttackResult.judge(halfspace, images * 255, images, torch.zeros(40, dtype=torch.long), norm="L2")


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_a_point_on_the_boundary_is_pushed_across_by_a_hair(halfspace, images, norm):
    network = BatchNoise(halfspace)
    labels = halfspace(images).argmax(dim=1)
    margin, step = halfspace.nearest(images, norm)
    at_boundary = images + step
    assert not AttackResult.judge(network, images, at_boundary, labels, norm=norm).success.all()
    pushed = step_outwards(network, images, at_boundary, labels)
    result = AttackResult.judge(network, images, pushed, labels, norm=norm)
    assert result.success.all()
    assert (result.upper >= margin * (1 - 1e-4)).all()
    assert (result.upper <= margin * 1.002).all()
    travelled, path = (pushed - images).flatten(1), step.flatten(1)
    directions = [way / way.norm(dim=1, keepdim=True) for way in (travelled, path)]
    assert_close(*directions, rtol=0, atol=1e-4)


def test_a_push_is_the_least_that_is_enough(halfspace, images):
    labels = halfspace(images).argmax(dim=1)
    _, step = halfspace.nearest(images, "L2")
    for stretch in STRETCHES[3:]:
        pushed = step_outwards(halfspace, images, images + step / (1 + 0.9 * stretch), labels)
        assert_close(pushed, images + step * (1 + stretch) / (1 + 0.9 * stretch), rtol=0, atol=3e-7)


def test_clear_witnesses_and_hopeless_points_stay_where_they_are(halfspace, images):
    labels = halfspace(images).argmax(dim=1)
    _, step = halfspace.nearest(images, "L2")
    for factor in (1.5, 0.5, 0.0):
        candidates = images + factor * step
        assert_close(step_outwards(halfspace, images, candidates, labels), candidates, rtol=0, atol=0)


def test_a_push_never_leaves_the_box(halfspace):
    image = torch.tensor([0.9, 0.9, 0.5, 0.9]).view(1, 1, 2, 2)
    on_boundary = torch.tensor([1.0, 1.0, 0.5, 1 / 6]).view(1, 1, 2, 2)  # two pixels have no room left
    pushed = step_outwards(halfspace, image, on_boundary, torch.tensor([1]))
    assert leads_clearly(halfspace(pushed), torch.tensor([1])).all()
    assert ((pushed >= 0) & (pushed <= 1)).all()


@given(st.lists(st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3), min_size=1, max_size=5), st.data())
@settings(max_examples=50, deadline=None)
def test_the_lead_is_the_best_other_logit_less_the_own(rows, data):
    labels = data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
    exact = [max(v for j, v in enumerate(r) if j != y) - r[y] for r, y in zip(rows, labels, strict=True)]
    assert_close(rival_lead(torch.tensor(rows), torch.tensor(labels)), torch.tensor(exact))


def test_a_lone_image_is_verified_in_a_second_batch_too():
    sizes = []

    class Recorder(torch.nn.Module):
        def forward(self, inputs):
            sizes.append(len(inputs))
            return torch.stack([inputs.flatten(1).sum(dim=1), torch.ones(len(inputs))], dim=1)

    image = torch.full((1, 1, 2, 2), 0.2)
    AttackResult.judge(Recorder(), image, image + 0.2, torch.tensor([1]), norm="Linf")
    assert sizes[0] == 1
    assert sizes[1] > 1
