"""How adversarial error grows with epsilon: its exponent near zero, and the whole curve drawn without an attack."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.stats import chi2
from torch import Tensor, nn

from margincons.attacks.boundary_step import descend_in_ball, falling_rate
from margincons.consistency import column
from margincons.detection import brittle_reach, is_correct
from margincons.errors import DegenerateError, UsageError
from margincons.passes import in_eval_mode
from margincons.scores import gaps_and_gradients
from margincons.statistics.intervals import Estimate
from margincons.threat import check_images, check_norm, per_item, vector_norm

ROUNDS = 30  # of bisection: a margin to 1e-9 of the box


def added_error(table: pd.DataFrame, epsilons: np.ndarray, *, margin: str = "upper") -> np.ndarray:
    """Share of all images that are right and brittle at each epsilon, (m,): what an attacker adds to the error.

    Brittle as in `margincons.detection.is_brittle`, so that what is added is clean accuracy less robust accuracy.

    Args:
        table: A record, one row per image.
        epsilons: Radii on the [0, 1] pixel scale, (m,).
        margin: The column that holds the input margin, or a prediction of it.

    Raises:
        MissingColumnError: If the table lacks a column.
    """
    held = np.sort(column(table, margin)[is_correct(table)])
    return np.searchsorted(held, brittle_reach(np.asarray(epsilons)), side="right") / len(table)


def tail_exponent(margins: np.ndarray, *, k: int, level: float = 0.95) -> Estimate:
    """Exponent b of P(margin <= epsilon) ~ epsilon^b near zero, from the k least margins.

    If the law holds up to the (k + 1)-th least margin c, the logarithms of c / margin are independent exponentials
    of rate b: k over their sum is the likeliest b, and twice b times the sum is chi-squared with 2k degrees.

    Source: Hill, 1975, Annals of Statistics 3, for the other end of a distribution.

    Args:
        margins: Input margins, (n,), such as those of the images that are classified correctly.
        k: How many of the least margins are used; the law need not hold beyond them.
        level: Share of such intervals that should hold the exponent.

    Raises:
        UsageError: If k is not in [2, n).
        DegenerateError: If the least margins are 0, or all equal.
    """
    margins = np.sort(np.asarray(margins, dtype=float))
    if not 2 <= k < len(margins):
        raise UsageError(f"Expected k of at least 2 and below the number of margins, {len(margins)}; got {k}.")
    cut, least = margins[k], margins[:k]
    if least[0] <= 0 or not np.isfinite(cut) or least[0] == cut:
        raise DegenerateError("An exponent", f"the {k} least margins are 0, infinite, or all equal")
    total = np.log(cut / least).sum()
    low, high = chi2.ppf([(1 - level) / 2, (1 + level) / 2], df=2 * k) / (2 * total)
    return Estimate(
        value=float(k / total), low=float(low), high=float(high), level=level, n=k, method=f"Hill, {k} least margins"
    )


@in_eval_mode
def linearised_margins(model: nn.Module, inputs: Tensor, *, norm: str, rivals: int = 9) -> Tensor:
    """Distance inside the pixel box to the nearest boundary of the network's linearisation at the image itself.

    As `margincons.scores.first_order_margin`, but a pixel at 0 cannot fall and one at 1 cannot rise: of a linear
    network these are the exact margins. One backward pass per rival, no search.

    Args:
        model: Maps images (n, c, h, w) in [0, 1] to logits (n, k).
        inputs: Images (n, c, h, w) in [0, 1]; one batch.
        norm: "Linf", "L2" or "L1".
        rivals: How many rivals are tried, by falling logit; all where there are fewer.

    Returns:
        One distance per image, (n,); infinite where the linearisation crosses nowhere in the box.

    Raises:
        PixelRangeError: If a pixel leaves [0, 1].
        UnknownNameError: If the norm does not exist.
        UsageError: If there is no rival to try.
        ShapeError: If there are fewer than two classes.
    """
    check_norm(norm)
    check_images(inputs)
    with torch.enable_grad():
        inputs = inputs.detach().requires_grad_()
        distances = [
            _distance(gradient, inputs.detach(), gap.detach(), norm)
            for gap, gradient in gaps_and_gradients(model(inputs), inputs, rivals=rivals)
        ]
    return torch.stack(distances).amin(dim=0)


def _distance(gradient: Tensor, inputs: Tensor, gap: Tensor, norm: str) -> Tensor:
    """Least radius at which a gap with this gradient can fall to 0 inside the box, (n,)."""
    room = torch.where(gradient > 0, inputs, 1 - inputs)
    reached = (gradient.abs() * room).flatten(1).sum(dim=1) >= gap
    if norm == "L1":
        return torch.where(reached, gap / falling_rate(gradient, inputs, gap, norm), torch.inf)
    low, high = torch.zeros_like(gap), vector_norm(torch.ones_like(inputs), norm)
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        falls = _fall(gradient, inputs, middle, norm) >= gap
        low, high = torch.where(falls, low, middle), torch.where(falls, middle, high)
    return torch.where(reached, high, torch.inf)


def _fall(gradient: Tensor, inputs: Tensor, radius: Tensor, norm: str) -> Tensor:
    """How far a linear function with this gradient falls in ball and box, (n,)."""
    still = torch.zeros_like(inputs)
    if norm == "Linf":
        reach = per_item(radius, inputs)
        moved = (inputs - reach * gradient.sign()).clamp(0, 1) - inputs
    else:
        moved = descend_in_ball(still, gradient, inputs=inputs, radius=radius, length=1.0, norm=norm)
    return -(gradient * moved).flatten(1).sum(dim=1)


@dataclass(frozen=True, kw_only=True)
class CurveGap:
    """How far a predicted robustness curve lies from the measured one."""

    reach: Estimate  # largest epsilon up to which the two differ by no more than the tolerance
    largest: Estimate  # largest difference at any epsilon, in shares of the images
    at: float  # the epsilon of that difference


def curve_gap(
    table: pd.DataFrame,
    *,
    predicted: str,
    margin: str = "upper",
    tolerance: float = 0.02,
    replicates: int = 200,
    seed: int = 0,
    level: float = 0.95,
) -> CurveGap:
    """Hold a curve drawn from predicted margins against the measured one; images are resampled for the intervals.

    Noise adds to a maximum: a largest difference that is resampled is too large, a reach too short. So what is
    resampled is how far the whole curve of differences strays from itself: with the chosen probability the true curve
    is nowhere further from the observed one, and both intervals follow from that band. They hold the estimates and err
    on the wide side. Up to the true reach the band need only hold on that stretch, so the lower end of the reach takes,
    at each epsilon, a band up to there. Where resampling moves nothing, the band has no width.

    Args:
        table: A record, one row per image, with a column of predictions.
        predicted: The column of predicted margins.
        margin: The column that holds the input margin, or a bound on it.
        tolerance: Difference in robust accuracy that is let pass, as a share of the images.
        replicates: Bootstrap samples.
        seed: Seed of the bootstrap.
        level: Share of such intervals that should hold the truth.

    Raises:
        MissingColumnError: If the table lacks a column.
        DegenerateError: If no image is classified correctly.
    """
    correct = is_correct(table)
    if not correct.any():
        raise DegenerateError("A robustness curve", "no image is classified correctly")
    guessed, measured = column(table, predicted)[correct], column(table, margin)[correct]
    where = np.concatenate([guessed, measured])
    order = np.argsort(where, kind="stable")
    rows = np.tile(np.flatnonzero(correct), 2)[order]
    sides = np.repeat([1, -1], correct.sum())[order]
    radii = where[order]
    ends = np.flatnonzero(np.append(radii[1:] > radii[:-1], True))  # the curves are compared between their steps
    radii = radii[ends]
    rng, n = np.random.default_rng(seed), len(table)

    def differences(weights: np.ndarray) -> np.ndarray:
        return np.cumsum(sides * weights[rows])[ends] / n

    seen = differences(np.ones(n))
    strayed = np.stack(
        [
            np.maximum.accumulate(np.abs(differences(np.bincount(rng.integers(n, size=n), minlength=n)) - seen))
            for _ in range(replicates)
        ]
    )  # (replicates, epsilons): the most that a replicate has strayed up to there
    whole, bands = (_upper_quantile(strayed[:, -1], level), _upper_quantile(strayed, (1 + level) / 2))
    method = f"bootstrap band, {replicates} replicates"
    size = np.abs(seen)
    top = float(size.max())

    def reach(differs: np.ndarray) -> float:
        beyond = differs > tolerance + 1e-12
        return float(radii[beyond.argmax()]) if beyond.any() else np.inf

    def estimate(value: float, low: float, high: float) -> Estimate:
        return Estimate(value=value, low=low, high=high, level=level, n=n, method=method)

    return CurveGap(
        reach=estimate(reach(size), reach(np.maximum.accumulate(size) + bands), reach(size - bands[-1])),
        largest=estimate(top, max(0.0, top - float(whole)), top + float(whole)),
        at=float(radii[size.argmax()]),
    )


def _upper_quantile(strayed: np.ndarray, level: float) -> np.ndarray:
    return np.quantile(strayed, level, axis=0, method="inverted_cdf")
