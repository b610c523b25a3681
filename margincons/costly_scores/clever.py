"""CLEVER: a distance from sampled gradients, by extreme value theory."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from margincons.attacks.randomness import gaussian, laplace, uniform
from margincons.brief import Brief
from margincons.costly_scores.reverse_weibull import at_limit, endpoint
from margincons.errors import UsageError
from margincons.passes import in_eval_mode
from margincons.threat import check_images, check_norm, dual_norm, per_item, places, vector_norm


@dataclass(frozen=True, kw_only=True, repr=False)
class CleverFits(Brief):
    """CLEVER image by image, with what became of its fits: a row per image, a column per rival."""

    distance: Tensor  # (n,), double
    nearest: Tensor  # (n,), column of the rival whose gap over constant is least
    at_limit: Tensor  # (n, rivals), bool: see `reverse_weibull.at_limit`

    @property
    def decided_at_limit(self) -> Tensor:
        """Whether the distance rests on a constant that the grid of endpoints set, not the sample, bool (n,)."""
        return self.at_limit.gather(1, self.nearest[:, None])[:, 0]


def clever(
    model: nn.Module,
    inputs: Tensor,
    *,
    norm: str,
    radius: float,
    batches: int = 20,
    samples: int = 32,
    rivals: int = 9,
    seed: int = 0,
    indices: Tensor | None = None,
) -> Tensor:
    """Least gap to a rival over an estimate of its local Lipschitz constant, at most ``radius``.

    The constant of f_i - f_j within the ball is the largest dual norm of its gradient. Of each batch of random images
    in the ball only the largest is kept; what these maxima point to (`reverse_weibull.endpoint`) stands for the largest
    of all. An estimate of a lower bound of the margin, not a bound: a few random gradients can miss the steepest.

    Source: Weng et al., 2018, "Evaluating the robustness of neural networks: an extreme value theory approach",
    arXiv:1801.10578, algorithms 1 and 2, there with 500 batches of 1,024. Here images stay in the pixel box.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k).
        inputs: Images (n, c, h, w) in [0, 1]; one batch.
        norm: "Linf", "L2" or "L1".
        radius: Of the ball that is sampled, on the [0, 1] pixel scale.
        batches: Maxima per image and rival, 2 or more.
        samples: Images that each maximum is taken over: a forward pass, and a backward pass per rival.
        rivals: How many rivals are tried, by falling logit; all where there are fewer.
        seed: Fixes the samples.
        indices: Each image's place in its data set, (n,), to which its samples belong; 0, 1, .. unless given.

    Returns:
        One distance per image, (n,), double.

    Raises:
        PixelRangeError: If an image leaves [0, 1].
        ShapeError: If there is not one index per image, as a whole number.
        UsageError: If the radius is not positive, there are fewer than 2 batches, or no sample or rival.
    """
    options = {"batches": batches, "samples": samples, "rivals": rivals, "seed": seed, "indices": indices}
    return clever_fits(model, inputs, norm=norm, radius=radius, **options).distance


@in_eval_mode
def clever_fits(
    model: nn.Module,
    inputs: Tensor,
    *,
    norm: str,
    radius: float,
    batches: int = 20,
    samples: int = 32,
    rivals: int = 9,
    seed: int = 0,
    indices: Tensor | None = None,
) -> CleverFits:
    """What `clever` returns, and which of its fits ended at the limit of their grid; arguments and errors as there."""
    check_images(inputs)
    check_norm(norm)
    if not (radius > 0 and batches >= 2 and min(samples, rivals) >= 1):
        raise UsageError(
            "Expected a radius above 0, 2 batches or more and a sample and a rival or more, "
            f"got {radius:g}, {batches}, {samples} and {rivals}."
        )
    indices = places(indices, len(inputs))
    with torch.no_grad():
        logits = model(inputs)
    top = logits.topk(min(rivals + 1, logits.shape[1]), dim=1)
    maxima = torch.zeros(batches, len(inputs), top.indices.shape[1] - 1, dtype=torch.float64, device=inputs.device)
    for draw in range(batches * samples):
        step = random_step(inputs, radius=radius, norm=norm, seed=seed, indices=indices, draw=draw)
        slopes = gap_slopes(model, (inputs + step).clamp(0, 1), top.indices, norm=norm)
        batch = maxima[draw // samples]
        torch.maximum(batch, slopes.double(), out=batch)
    gaps = (top.values[:, :1] - top.values[:, 1:]).double()
    constants = endpoint(maxima)
    least = (gaps / constants).nan_to_num(nan=0.0).min(dim=1)  # 0 / 0: on the boundary, flat
    limits = at_limit(maxima, constants)
    return CleverFits(distance=least.values.clamp(max=radius), nearest=least.indices, at_limit=limits)


def gap_slopes(model: nn.Module, inputs: Tensor, classes: Tensor, *, norm: str) -> Tensor:
    """Dual norms of the gradients of f_i - f_j: classes (n, 1 + r) name i, then each j; (n, r)."""
    with torch.enable_grad():
        inputs = inputs.detach().requires_grad_()
        chosen = model(inputs).gather(1, classes)
        slopes = []
        for rival in range(1, classes.shape[1]):
            gap = (chosen[:, 0] - chosen[:, rival]).sum()
            (gradient,) = torch.autograd.grad(gap, inputs, retain_graph=rival + 1 < classes.shape[1])
            slopes.append(vector_norm(gradient, dual_norm(norm)))
    return torch.stack(slopes, dim=1)


def random_step(inputs: Tensor, *, radius: float, norm: str, seed: int, indices: Tensor, draw: int) -> Tensor:
    """Uniform draws from the ball, (n, c, h, w), one stream per (seed, index, draw).

    A direction from the sphere times the d-th root of a uniform length; for L1, of Laplace draws.
    """
    options = {"seed": seed, "indices": indices, "device": inputs.device}
    shape = tuple(inputs.shape[1:])
    if norm == "Linf":
        return radius * (2 * uniform(shape, restart=draw, **options) - 1).to(inputs)
    if norm == "L2":
        direction = gaussian(shape, restart=2 * draw, **options)
    else:
        direction = laplace(shape, restart=2 * draw, **options)
    length = uniform((1,), restart=2 * draw + 1, **options)[:, 0] ** (1 / inputs[0].numel())
    return (direction * per_item(radius * length / vector_norm(direction, norm), direction)).to(inputs)
