"""The smoothing radius against the closed form of a halfspace, and its bound against exact binomial tails."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.testing import assert_close

from margincons.costly_scores import smoothing_radius
from margincons.errors import PixelRangeError, ShapeError, UsageError
from margincons.passes import CountPasses


def halfspace():
    """Two classes on either side of x_0 = 1/2."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[3.0, 0.0], [-3.0, 0.0]]))
        model[1].bias.copy_(torch.tensor([-1.5, 1.5]))
    return model


def images(*x):
    return torch.tensor([[value, 0.3] for value in x], dtype=torch.float64).view(-1, 1, 1, 2)


def test_the_radius_of_a_halfspace_grows_towards_its_distance_and_stays_below():
    inputs = images(0.5, 0.55, 0.7, 0.2)
    exact = torch.tensor([0.0, 0.05, 0.2, 0.3], dtype=torch.float64)
    coarse, fine = (smoothing_radius(halfspace(), inputs, sigma=0.25, samples=n) for n in (100, 20_000))
    assert (coarse < fine).all()
    assert (fine <= exact).all()
    assert_close(fine, exact, atol=0.012, rtol=0)


def test_the_lower_bound_is_the_share_at_which_so_many_votes_are_as_rare_as_alpha():
    samples, sigma, alpha = 50, 0.25, 0.01
    model = CountPasses(halfspace())
    radius = smoothing_radius(model, images(0.6), sigma=sigma, samples=samples, alpha=alpha).item()
    share = stats.norm.cdf(radius / sigma)
    tails = [stats.binom.sf(votes - 1, samples, share) for votes in range(1, samples + 1)]
    assert np.abs(np.array(tails) - alpha).min() < 1e-9  # P(votes or more | share) = alpha for the votes counted
    assert (model.forward_images, model.backward_images) == (samples + 1, 0)


class Island(nn.Module):
    """Class 1 where the first pixel is 0.25 exactly, and nowhere else."""

    def forward(self, inputs):
        return torch.stack([torch.zeros(len(inputs)), (inputs.flatten(1)[:, 0] == 0.25).float()], dim=1)


def test_a_unanimous_vote_has_the_radius_that_its_number_allows_and_a_lost_one_certifies_nothing():
    radius = smoothing_radius(halfspace(), images(1.0), sigma=0.05, samples=200, alpha=0.001)
    assert radius.item() == pytest.approx(0.05 * stats.norm.ppf(0.001 ** (1 / 200)))
    assert smoothing_radius(Island(), images(0.25), sigma=0.1, samples=20).item() == -torch.inf


def test_an_image_keeps_its_noise_in_any_batch_and_another_seed_draws_other_noise():
    inputs = images(0.52, 0.55, 0.6)
    options = {"sigma": 0.25, "samples": 300}
    whole = smoothing_radius(halfspace(), inputs, **options)
    assert_close(smoothing_radius(halfspace(), inputs[1:], indices=torch.tensor([1, 2]), **options), whole[1:])
    assert (smoothing_radius(halfspace(), inputs, seed=1, **options) != whole).any()


@pytest.mark.parametrize("wrong", [{"sigma": 0.0}, {"samples": 0}, {"alpha": 1.0}], ids=str)
def test_what_cannot_be_meant_is_refused(wrong):
    with pytest.raises(UsageError, match="Expected sigma > 0, samples >= 1 and alpha"):
        smoothing_radius(halfspace(), images(0.6), **{"sigma": 0.1, **wrong})


def test_images_off_the_pixel_scale_and_too_few_indices_are_refused():
    with pytest.raises(PixelRangeError):
        smoothing_radius(halfspace(), images(0.6, 5.0), sigma=0.1)
    with pytest.raises(ShapeError, match="indices"):
        smoothing_radius(halfspace(), images(0.6, 0.7), sigma=0.1, indices=torch.tensor([7]))
