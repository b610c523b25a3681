import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot, softmax
from torch.testing import assert_close

from margincons.errors import LabelRangeError, ShapeError
from margincons.zoo.temperature import Tempered, distil, fit

PROBABILITIES = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]])


def linear(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(3, 3)


def slope(network, targets, temperature):
    """Gradient of what `fit` minimises, in closed form, at one input per row of targets; weight decay is 1e-4."""
    error = softmax(network(torch.eye(3)) / temperature, dim=1) - targets
    return error.T / (3 * temperature) + 1e-4 * network.weight


def test_a_temperature_divides_logits_and_their_slopes_and_changes_no_decision():
    network, inputs = linear(), torch.eye(3, requires_grad=True)
    hot = Tempered(network, temperature=4.0)
    assert_close(hot(inputs), network(inputs) / 4, rtol=0, atol=0)
    (slope,) = torch.autograd.grad(hot(inputs)[:, 0].sum(), inputs)
    assert_close(slope, network.weight[:1].expand(3, 3) / 4)


@pytest.mark.parametrize("temperature", [1.0, 5.0])
def test_training_ends_where_the_gradient_at_that_temperature_is_zero(temperature):
    options = {"temperature": temperature, "epochs": 600, "max_lr": 0.1 * temperature}
    network = fit(linear(), torch.eye(3), PROBABILITIES, **options)
    assert slope(linear(), PROBABILITIES, temperature).abs().max() > 0.01
    assert slope(network, PROBABILITIES, temperature).abs().max() < 1e-4


def test_classes_are_taught_as_certain_probabilities():
    labels = torch.tensor([2, 0, 1, 1])
    inputs = torch.rand(4, 3, generator=torch.Generator().manual_seed(1))
    networks = [fit(linear(), inputs, targets, epochs=5) for targets in (labels, one_hot(labels).float())]
    assert_close(networks[0].weight, networks[1].weight)


@pytest.mark.parametrize("labels", [[0, 1, 1, 0], [0, 0, 0, 0]])
def test_a_class_without_an_example_is_taught_to_be_none(labels):
    inputs, labels = torch.rand(4, 3, generator=torch.Generator().manual_seed(1)), torch.tensor(labels)
    networks = [fit(linear(), inputs, targets, epochs=5) for targets in (labels, one_hot(labels, 3).float())]
    assert_close(networks[0].weight, networks[1].weight)


def test_a_second_fit_trains_on_and_leaves_the_parameters_frozen_again():
    network = fit(linear(), torch.eye(3), PROBABILITIES, epochs=5)
    before = network.weight.clone()
    assert not network.weight.requires_grad
    fit(network, torch.eye(3), PROBABILITIES, epochs=5)
    assert not torch.equal(network.weight, before)
    assert not network.weight.requires_grad


def test_targets_that_are_not_the_networks_are_refused():
    with pytest.raises(LabelRangeError):
        fit(linear(), torch.eye(3), torch.tensor([0, 1, 3]))
    with pytest.raises(ShapeError, match=r"Expected targets to be classes or probabilities \(3, 3\), got \(3, 1\)"):
        fit(linear(), torch.eye(3), torch.ones(3, 1))


def test_the_seed_fixes_the_training_and_the_callers_draws_are_left_alone():
    inputs, labels = torch.rand(200, 3, generator=torch.Generator().manual_seed(1)), torch.arange(200) % 3
    state = torch.get_rng_state()
    one, same, other = (fit(linear(), inputs, labels, epochs=3, seed=seed).weight for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_student_learns_its_teachers_answers_at_the_temperature_and_not_the_labels():
    teacher, student, temperature = linear(), linear(1), 5.0
    options = {"temperature": temperature, "epochs": 700, "max_lr": 2.0}
    assert distil(teacher, student, torch.eye(3), torch.arange(3), **options) is student
    assert not student.training
    assert slope(teacher, torch.eye(3), temperature).abs().max() < 1e-3
    taught = softmax(teacher(torch.eye(3)) / temperature, dim=1)
    assert slope(student, taught, temperature).abs().max() < 1e-4
    assert slope(student, torch.eye(3), temperature).abs().max() > 1e-3
