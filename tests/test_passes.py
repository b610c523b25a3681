from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from margincons.attacks.autoattack import apgd
from margincons.attacks.fab import fab_paper
from margincons.attacks.fgsm import fgsm
from margincons.attacks.minimum_norm import minimum_norm, search
from margincons.attacks.pgd import pgd
from margincons.costly_scores import clever, gradient_norm, smoothing_radius
from margincons.data import Images
from margincons.errors import UsageError
from margincons.margins import input_margins
from margincons.measure import measure_images
from margincons.passes import CountPasses, check_batch_size, evaluating, verification
from margincons.scores import first_order_margin
from margincons.studies.local_complexity import local_complexity, relu_count
from margincons.studies.scaling import linearised_margins
from margincons.studies.transfer import transfer_rates


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def test_every_image_counts_once_in_each_direction_it_passes():
    counted = CountPasses(network().eval())
    inputs = torch.rand(5, 1, 2, 2, requires_grad=True)
    logits = counted(inputs)
    logits[:, 0].sum().backward(retain_graph=True)
    logits[:, 1].sum().backward()
    with torch.no_grad():
        counted(inputs[:2])
    assert (counted.forward_images, counted.backward_images, counted.verification_images) == (7, 10, 0)


def test_verification_is_counted_apart_and_only_inside_its_block():
    counted = CountPasses(network().eval())
    with verification(counted):
        counted(torch.rand(3, 1, 2, 2))
    counted(torch.rand(2, 1, 2, 2))
    assert (counted.forward_images, counted.verification_images) == (2, 3)


def test_a_network_that_does_not_count_is_left_alone_by_verification():
    model = network().eval()
    with verification(model):
        assert model(torch.rand(1, 1, 2, 2)).shape == (1, 3)


def test_each_module_returns_to_its_own_mode():
    model = network().train()
    model[2].eval()
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model] == [True, True, False, True, True, True]


def test_a_network_in_training_mode_is_measured_in_eval_mode_and_not_altered():
    model, inputs = network(), torch.rand(6, 1, 2, 2)
    expected = input_margins(model.eval(), inputs, effort="fast")
    model.train()
    statistics = model[2].running_mean.clone()
    measured = input_margins(model, inputs, effort="fast")
    assert model.training
    assert torch.equal(model[2].running_mean, statistics)
    assert torch.equal(measured.upper, expected.upper)


@pytest.mark.parametrize(
    "attack",
    [
        minimum_norm,
        search,
        partial(pgd, epsilon=0.1, steps=2),
        partial(fgsm, epsilon=0.1),
        partial(apgd, epsilon=0.1, norm="Linf", seed=0, steps=2),
        partial(fab_paper, norm="Linf", steps=2),
    ],
)
def test_an_attack_leaves_a_network_in_training_mode_as_it_was(attack):
    model, inputs, labels = network().train(), torch.rand(6, 1, 2, 2), torch.zeros(6, dtype=torch.long)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attack(model, inputs, labels)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "function",
    [
        partial(first_order_margin, norm="Linf"),
        partial(gradient_norm, norm="L2"),
        partial(clever, norm="L2", radius=0.5, batches=2, samples=2),
        partial(smoothing_radius, sigma=0.25, samples=4),
        partial(linearised_margins, norm="Linf"),
        partial(local_complexity, radius=0.1, directions=2),
        lambda model, inputs: torch.tensor(relu_count(model, inputs[:1])),
        lambda model, inputs: torch.tensor(_rate(model, inputs)),
    ],
)
def test_scores_are_those_of_eval_mode_and_leave_a_network_in_training_mode_as_it_was(function):
    model, inputs = network(), torch.rand(6, 1, 2, 2)
    model(3 * torch.rand(50, 1, 2, 2))  # statistics that are not those of the images
    expected = function(model.eval(), inputs)
    before = {name: value.clone() for name, value in model.train().state_dict().items()}
    assert torch.equal(function(model, inputs), expected)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def _rate(model, inputs):
    moved = {"flipped": 1 - inputs}
    with evaluating(model), torch.no_grad():
        labels = model(inputs).argmax(dim=1)
    return transfer_rates({"it": model}, moved, inputs, labels).loc["flipped", "it"].value


def test_measuring_images_leaves_a_network_in_training_mode_as_it_was():
    model = network().train()
    images = Images(
        name="noise", decoding="as stored", inputs=torch.rand(6, 1, 2, 2), labels=torch.zeros(6, dtype=torch.long)
    )
    measure_images(model, images, effort="fast")
    assert all(module.training for module in model.modules())
    assert model[2].num_batches_tracked == 0


def test_a_batch_holds_a_whole_number_of_images_and_one_at_least():
    for good in (1, 256, np.int64(3)):
        check_batch_size(good)
    for bad in (0, -1, 2.5, "auto", None):
        with pytest.raises(UsageError, match="Expected a batch size of one image or more, got"):
            check_batch_size(bad)
