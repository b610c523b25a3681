"""What an attack returns, and the one place where it is verified.

Logits move by 1e-6 to 1e-5 of their size with the batch an image sits in, so a point a hair across
the boundary is not adversarial everywhere. A *witness* is: a rival leads the left class by at least
`WITNESS_FRACTION` of the largest logit, in two batches of different composition.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from margincons.brief import Brief
from margincons.passes import verification
from margincons.threat import check_images, vector_norm

WITNESS_FRACTION = 1e-5  # of the largest |logit|: ten times the spread between batches on the bundled networks
STRETCHES = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)  # relative steps outwards from too near a boundary


@dataclass(frozen=True, kw_only=True, repr=False)
class AttackResult(Brief):
    """Verified outcome of an attack, one entry per image."""

    adversarial: Tensor  # (n, c, h, w), [0, 1]; the clean image where the attack failed
    success: Tensor  # (n,), bool: a verified witness was found
    upper: Tensor  # (n,), bound on the input margin in the attack's norm; infinite where nothing was found
    adversarial_label: Tensor  # (n,), class of the adversarial image; the class to leave where it failed

    @classmethod
    def judge(
        cls, model: nn.Module, inputs: Tensor, adversarial: Tensor, labels: Tensor, *, norm: str
    ) -> "AttackResult":
        """Believe nothing: pass the candidates through the network again and measure them again.

        Args:
            model: Maps images (n, c, h, w) to logits (n, k).
            inputs: Clean images (n, c, h, w) in [0, 1].
            adversarial: Candidates (n, c, h, w), anywhere; those outside [0, 1] are clamped.
            labels: Classes to leave, (n,).
            norm: Norm in which ``upper`` is measured.

        Raises:
            PixelRangeError: If a clean image leaves [0, 1].
        """
        check_images(inputs)
        inputs = inputs.detach()  # or the distances would keep its graph
        candidates = torch.where(adversarial.isfinite(), adversarial, inputs).clamp(0, 1).to(inputs.dtype)
        with verification(model):
            success, rival = _is_witness_everywhere(model, candidates, labels)
        kept = torch.where(success.view(-1, 1, 1, 1), candidates, inputs)
        upper = vector_norm(kept - inputs, norm)
        return cls(
            adversarial=kept,
            success=success,
            upper=torch.where(success, upper, torch.inf),
            adversarial_label=torch.where(success, rival, labels),
        )


def rival_lead(logits: Tensor, labels: Tensor) -> Tensor:
    """Lead of the best other class over ``labels``, (n,): positive where the class was left."""
    own = logits.gather(1, labels[:, None])
    return (logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1, keepdim=True) - own)[:, 0]


def leads_clearly(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether a rival leads by `WITNESS_FRACTION` of the largest logit, (n,); False where logits are not finite."""
    return rival_lead(logits, labels) > WITNESS_FRACTION * logits.abs().amax(dim=1)


@torch.no_grad()
def step_outwards(model: nn.Module, inputs: Tensor, candidates: Tensor, labels: Tensor) -> Tensor:
    """Push candidates that end too near the boundary a little further along their own path.

    For minimum-norm attacks, whose bisection ends at a lead of about zero; never for attacks with a budget.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k).
        inputs: Clean images (n, c, h, w) in [0, 1].
        candidates: Where the attack ended, (n, c, h, w).
        labels: Classes to leave, (n,).

    Returns:
        Candidates (n, c, h, w), moved by the least of `STRETCHES` that makes them witnesses, else unmoved.
    """
    candidates = candidates.clone()
    with verification(model):
        left = (~_is_witness_everywhere(model, candidates, labels)[0]).nonzero()[:, 0]
        for stretch in STRETCHES:
            if len(left) == 0:
                break
            moved = (inputs[left] + (1 + stretch) * (candidates[left] - inputs[left])).clamp(0, 1)
            clear, _ = _is_witness_everywhere(model, moved, labels[left])
            candidates[left[clear]] = moved[clear]
            left = left[~clear]
    return candidates


@torch.no_grad()
def in_two_batches(function: Callable[[Tensor], Tensor], candidates: Tensor) -> tuple[Tensor, Tensor]:
    """What a function of images, such as a network, returns in two batches of different composition, row by row."""
    first = function(candidates)
    if len(candidates) == 1:
        return first, function(candidates.repeat(3, 1, 1, 1))[:1]
    other_size = max(1, len(candidates) // 2 - 1)  # reversed and cut elsewhere: other neighbours, another size
    return first, torch.cat([function(part) for part in candidates.flip(0).split(other_size)]).flip(0)


def _is_witness_everywhere(model: nn.Module, candidates: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits, again = in_two_batches(model, candidates)
    return leads_clearly(logits, labels) & leads_clearly(again, labels), logits.argmax(dim=1)
