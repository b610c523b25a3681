"""The gradient norm against the formula of a linear network."""

import numpy as np
import pytest
import torch
from torch import nn

from margincons.costly_scores import gradient_norm
from margincons.errors import PixelRangeError
from margincons.passes import CountPasses
from margincons.threat import NORMS

DUAL = {"Linf": 1, "L2": 2, "L1": np.inf}


@pytest.mark.parametrize("norm", NORMS)
def test_the_gradient_of_a_linear_network_is_the_mean_weight_less_the_predicted_ones(norm):
    model = CountPasses(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).double())
    inputs = torch.rand(9, 3, 2, 2, dtype=torch.float64)
    found = gradient_norm(model, inputs, norm=norm)
    assert (model.forward_images, model.backward_images) == (9, 9)
    weight, logits = model.model[1].weight.detach().numpy(), model(inputs).detach()
    for row, chances in enumerate(logits.softmax(dim=1).numpy()):
        gradient = chances @ weight - weight[chances.argmax()]
        assert found[row].item() == pytest.approx(np.linalg.norm(gradient, ord=DUAL[norm]))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_gradient_vanishes_where_single_precision_saturates():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    inputs = torch.rand(4, 3, 2, 2)
    assert (gradient_norm(model, inputs, norm="L2") > 0).all()
    for parameter in model[1].parameters():
        parameter.data *= 1e7
    assert (gradient_norm(model, inputs, norm="L2") == 0).all()


def test_images_off_the_pixel_scale_are_refused():
    with pytest.raises(PixelRangeError):
        gradient_norm(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), torch.full((1, 3, 2, 2), 5.0), norm="L2")
