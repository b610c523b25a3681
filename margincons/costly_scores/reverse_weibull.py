"""The largest value that a sample of maxima points to: the endpoint of a reverse Weibull distribution.

Maxima of many draws of a bounded quantity follow, in the limit, P(M <= x) = exp(-((a - x) / s)^c) for x below the
endpoint a. Where c is below 1 the likelihood has no maximum, so c is held to 1 or more.
"""

import torch
from torch import Tensor

EXCESS = (1e-3, 10.0, 48)  # endpoints tried, in ranges of the sample above its largest value: from, to, how many
SHAPES = (1.0, 1e3)
HALVINGS = 40


def endpoint(maxima: Tensor) -> Tensor:
    """Estimate the endpoint of each column by maximum likelihood.

    For a given endpoint the likelihood's best shape solves an equation in one unknown and the best scale follows; of
    a grid of endpoints the most likely is taken.

    Source: the estimate that Weng et al., 2018, arXiv:1801.10578, section 4, make of a local Lipschitz constant.

    Args:
        maxima: One row per maximum, (b, ...), b >= 2; each column a sample of its own.

    Returns:
        One endpoint per column, (...): at least the largest value, and just that where all are alike.
    """
    maxima = maxima.double()
    top, spread = maxima.amax(dim=0), maxima.amax(dim=0) - maxima.amin(dim=0)
    low, high, count = EXCESS
    tried = torch.logspace(*torch.tensor([low, high]).log10().tolist(), count, dtype=torch.float64).to(top.device)
    best, found = torch.full_like(top, -torch.inf), top.clone()
    for excess in tried:
        end = top + excess * spread
        likelihood = log_likelihood((end - maxima).clamp_min(torch.finfo(torch.float64).tiny))
        better = (likelihood > best) & (spread > 0)
        best, found = torch.where(better, likelihood, best), torch.where(better, end, found)
    return found


def at_limit(maxima: Tensor, end: Tensor) -> Tensor:
    """Whether the most likely endpoint of each column is the largest one tried, bool (...).

    The likelihood then rises up to the end of the grid, and an endpoint farther off may be more likely still, since the
    reverse Weibull law tends to one without an endpoint, Gumbel's. What stands there is the grid's, not the sample's.

    Args:
        maxima: As for `endpoint`, (b, ...).
        end: What it returned, (...).
    """
    top, spread = maxima.double().amax(dim=0), maxima.double().amax(dim=0) - maxima.double().amin(dim=0)
    return (spread > 0) & (end >= top + (1 - 1e-6) * EXCESS[1] * spread)


def log_likelihood(distances: Tensor) -> Tensor:
    """Mean log-likelihood of distances (b, ...) below an endpoint, at their most likely scale and `shape`."""
    logs = distances.log()
    best = shape(distances)
    return best.log() - _log_mean_power(logs, best) + (best - 1) * logs.mean(dim=0) - 1


def shape(distances: Tensor) -> Tensor:
    """Most likely shape of Weibull distances (b, ...), at least 1, found by halving an interval of its logarithm."""
    logs = distances.log()
    logs = logs - logs.amax(dim=0)  # the shape does not depend on the scale
    low, high = (torch.full_like(logs[0], end).log() for end in SHAPES)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        powers = (middle.exp() * logs).exp()
        slope = (powers * logs).sum(dim=0) / powers.sum(dim=0) - (-middle).exp() - logs.mean(dim=0)
        low, high = torch.where(slope < 0, middle, low), torch.where(slope < 0, high, middle)
    return ((low + high) / 2).exp()


def _log_mean_power(logs: Tensor, power: Tensor) -> Tensor:
    return (power * logs).logsumexp(dim=0) - torch.tensor(float(len(logs))).log()
