import pytest
import torch
from torch import nn
from torch.testing import assert_close

from margincons.attacks.autoattack import apgd, autoattack, square
from margincons.attacks.fab import fab_paper, fab_restarts, fab_targeted
from margincons.attacks.fgsm import fgsm
from margincons.attacks.pgd import pgd
from margincons.errors import LabelRangeError, PixelRangeError, ShapeError, UnknownNameError, UsageError
from margincons.threat import dual_norm


@pytest.fixture
def halfspace():
    """Two classes that one hyperplane parts: the margin is |gap| / ||difference of weights||, exactly."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
    network[1].bias.data = -0.5 * network[1].weight.data.sum(dim=1)  # through the middle of the box
    return network


@pytest.fixture
def images():
    torch.manual_seed(1)
    return 0.4 + 0.2 * torch.rand(60, 1, 4, 4)  # far enough inside for the box not to matter


def exact_margin(network, images, norm):
    with torch.no_grad():
        gap = network(images).diff(dim=1)[:, 0].abs()
    difference = network[1].weight.diff(dim=0)[0].detach()
    order = {"Linf": torch.inf, "L2": 2, "L1": 1}[dual_norm(norm)]
    return gap / difference.norm(p=order)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_one_step_crosses_a_hyperplane_exactly_where_the_ball_does(halfspace, images, norm):
    exact = exact_margin(halfspace, images, norm)
    epsilon = exact.median().item() * 1.001
    result = fgsm(halfspace, images, halfspace(images).argmax(dim=1), epsilon=epsilon, norm=norm)
    assert_close(result.success, exact < epsilon)
    assert_close(result.upper[result.success], torch.full((int(result.success.sum()),), epsilon))
    assert ((result.adversarial >= 0) & (result.adversarial <= 1)).all()


def test_epsilon_zero_changes_nothing(halfspace, images):
    result = fgsm(halfspace, images, halfspace(images).argmax(dim=1), epsilon=0)
    assert_close(result.adversarial, images, rtol=0, atol=0)
    assert not result.success.any()


def test_what_cannot_be_meant_is_refused(halfspace, images):
    labels = torch.zeros(60, dtype=torch.long)
    with pytest.raises(UsageError, match="did you mean 8/255"):
        fgsm(halfspace, images, labels, epsilon=8)
    with pytest.raises(PixelRangeError, match="divide by 255"):
        fgsm(halfspace, images * 255, labels, epsilon=0.1)
    with pytest.raises(UnknownNameError, match="Linf"):
        fgsm(halfspace, images, labels, epsilon=0.1, norm="linf")


WRONG_LABELS = [
    (
        torch.zeros(60, dtype=torch.int32),
        ShapeError,
        "Expected labels to be one per image, (60,) torch.int64, got (60,)",
    ),
    (
        torch.zeros(59, dtype=torch.long),
        ShapeError,
        "Expected labels to be one per image, (60,) torch.int64, got (59,)",
    ),
    (torch.arange(60) % 3, LabelRangeError, "Expected labels 0 to 1, one per logit of the network, got 0 to 2;"),
    (torch.arange(60) % 2 - 1, LabelRangeError, "got -1 to 0;"),
]


@pytest.mark.parametrize("attack", [fgsm, pgd, autoattack, apgd, square, fab_paper, fab_restarts, fab_targeted])
@pytest.mark.parametrize(("labels", "error", "text"), WRONG_LABELS)
def test_labels_that_are_no_classes_of_the_network_are_refused_by_every_attack(
    halfspace, images, attack, labels, error, text
):
    options = {"norm": "Linf"} | ({} if "fab" in attack.__name__ else {"epsilon": 0.1})
    options |= {"attacks": ["square"]} if attack is autoattack else {}
    with pytest.raises(error) as caught:
        attack(halfspace, images, labels, **options)
    assert text in str(caught.value)
