"""Randomised smoothing: how surely a class wins a vote among noisy copies of an image."""

import torch
from scipy import stats
from torch import Tensor, nn

from margincons.attacks.randomness import gaussian
from margincons.errors import UsageError
from margincons.passes import in_eval_mode
from margincons.threat import check_images, places


@in_eval_mode
@torch.no_grad()
def smoothing_radius(
    model: nn.Module,
    inputs: Tensor,
    *,
    sigma: float,
    samples: int = 1000,
    alpha: float = 0.001,
    seed: int = 0,
    indices: Tensor | None = None,
) -> Tensor:
    """Certified L2 radius of the smoothed classifier at the class that the network itself predicts.

    sigma times the normal quantile of a Clopper-Pearson lower bound on that class's share of the votes. The class is
    fixed before any noise is drawn, so no votes are spent on choosing it. It is the *smoothed* classifier that keeps
    the class within a positive radius, with confidence 1 - alpha; of the network it proves nothing. A radius of 0 or
    less certifies nothing, and is kept for the order. Noisy images leave the pixel box, as in the source.

    Source: Cohen, Rosenfeld and Kolter, 2019, arXiv:1902.02918, theorem 1 and section 3.2.2.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k).
        inputs: Images (n, c, h, w) on the [0, 1] pixel scale.
        sigma: Standard deviation of the noise of each pixel, on the same scale.
        samples: Votes per image, a forward pass each, besides the one that fixes the class.
        alpha: Chance that an image's radius is too large.
        seed: Fixes the noise.
        indices: Each image's place in its data set, (n,), to which its noise belongs; 0, 1, .. unless given.

    Returns:
        One L2 radius per image, (n,), double; minus infinity where the class has no vote.

    Raises:
        PixelRangeError: If an image leaves [0, 1].
        ShapeError: If there is not one index per image, as a whole number.
        UsageError: If sigma is not positive, there are no samples, or alpha is not in (0, 1).
    """
    check_images(inputs)
    if not (sigma > 0 and samples >= 1 and 0 < alpha < 1):
        raise UsageError(
            f"Expected sigma > 0, samples >= 1 and alpha in (0, 1), got {sigma:g}, {samples} and {alpha:g}."
        )
    indices = places(indices, len(inputs))
    predicted = model(inputs).argmax(dim=1)
    votes = torch.zeros(len(inputs), dtype=torch.int64, device=inputs.device)
    for draw in range(samples):
        noise = gaussian(inputs.shape[1:], seed=seed, indices=indices, restart=draw, device=inputs.device)
        votes += model(inputs + sigma * noise.to(inputs)).argmax(dim=1) == predicted
    lower = stats.beta.ppf(alpha, votes.cpu().numpy(), samples - votes.cpu().numpy() + 1)  # NaN without a vote
    return torch.from_numpy(sigma * stats.norm.ppf(lower)).nan_to_num(nan=-torch.inf)
