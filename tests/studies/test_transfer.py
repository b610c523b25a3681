import pytest
import torch
from torch import nn

from margincons.attacks.fgsm import fgsm
from margincons.errors import DegenerateError
from margincons.studies.transfer import transfer_rates


def halfspace(weights):
    """Class 1 where the weighted mean of four pixels is above one half of the weights' mean."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval().requires_grad_(False)
    network[1].weight[:] = torch.stack([torch.zeros(4), torch.tensor(weights)])
    network[1].bias[:] = torch.tensor([0, -0.5 * sum(weights)])
    return network


@pytest.fixture
def setting():
    torch.manual_seed(0)
    models = {
        "mean": halfspace([1.0, 1, 1, 1]),
        "nearly": halfspace([2.0, 1, 1, 1]),
        "across": halfspace([1.0, -1, 1, -1]),
    }
    inputs = torch.rand(200, 1, 2, 2)
    return models, inputs, models["mean"](inputs).argmax(dim=1)


def test_rates_are_counts_over_the_images_that_the_target_has_right(setting):
    models, inputs, labels = setting
    moved = {name: fgsm(model, inputs, labels, epsilon=0.2).adversarial for name, model in models.items()}
    rates = transfer_rates(models, moved, inputs, labels)
    for target, model in models.items():
        right = model(inputs).argmax(dim=1) == labels
        for source in models:
            fooled = (model(moved[source]).argmax(dim=1) != labels) & right
            assert rates.loc[source, target].value == pytest.approx(fooled.sum().item() / right.sum().item())
            assert rates.loc[source, target].low <= rates.loc[source, target].value <= rates.loc[source, target].high


def test_like_networks_share_their_adversarial_examples_and_orthogonal_ones_do_not(setting):
    models, inputs, labels = setting
    moved = {name: fgsm(model, inputs, labels, epsilon=0.2).adversarial for name, model in models.items()}
    rates = transfer_rates(models, moved, inputs, labels).map(lambda rate: rate.value)
    assert rates.loc["mean", "mean"] > 0.5
    assert rates.loc["nearly", "mean"] > 3 * rates.loc["across", "mean"]


def test_clean_images_mislead_no_target_and_a_target_without_a_right_image_is_named(setting):
    models, inputs, labels = setting
    rates = transfer_rates(models, {"nothing": inputs}, inputs, labels)
    assert [rate.value for rate in rates.loc["nothing"]] == [0, 0, 0]
    with pytest.raises(DegenerateError, match="mean classifies no image correctly"):
        transfer_rates(models, {"nothing": inputs}, inputs, 1 - labels)
