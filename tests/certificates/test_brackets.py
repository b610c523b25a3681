import pytest
import torch
from torch.testing import assert_close

from margincons.certificates import bracket, exact_margins, lower_bounds
from margincons.errors import ShapeError, UsageError

NORMS = ("Linf", "L2", "L1")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("method", ["interval", "crown"])
def test_a_bracket_holds_the_exact_margin(residual, norm, method):
    network, images = residual(1), torch.rand(6, 1, 2, 2)
    exact = exact_margins(network, images, norm=norm)
    result = bracket(network, images, upper=1.1 * exact.upper, norm=norm, method=method)
    assert (result.lower <= exact.upper + 1e-6).all()
    assert (result.upper >= exact.lower).all()
    assert_close(result.lower, lower_bounds(network, images, norm=norm, method=method))
    assert ((result.gap >= 0) & (result.gap <= 1)).all()


def test_a_failed_attack_leaves_the_bracket_open_above(residual):
    network, images = residual(1), torch.rand(3, 1, 2, 2)
    result = bracket(network, images, upper=torch.full((3,), torch.inf))
    assert (result.upper == torch.inf).all()
    assert set(result.gap.tolist()) <= {0.0, 1.0}  # certified to be infinite, or not


def test_an_upper_bound_below_a_certificate_is_refused(residual):
    network, images = residual(1), torch.rand(3, 1, 2, 2)
    upper = lower_bounds(network, images).clamp(max=1)
    upper[1] *= 0.9
    with pytest.raises(UsageError, match=r"above the certified ones, got .* for image 1; are they verified"):
        bracket(network, images, upper=upper)


def test_float32_rounding_is_no_contradiction(residual):
    network, images = residual(1), torch.rand(3, 1, 2, 2)
    upper = lower_bounds(network, images) * (1 - 1e-6)
    result = bracket(network, images, upper=upper)
    assert (result.lower <= result.upper).all()


def test_one_upper_bound_for_each_image(residual):
    with pytest.raises(ShapeError, match=r"one bound for each image, \(3,\), got \(2,\)"):
        bracket(residual(1), torch.rand(3, 1, 2, 2), upper=torch.ones(2))
