"""Attacks on a detector of brittle decisions, by somebody who knows the network, the score and the threshold.

The detector flags low scores. Two ways past it, in an l_inf ball around an image:

- `evade`: another class, and a score that looks robust. Wherever it ends, the decision there is brittle: the clean
  image, of another class, is within epsilon. So an evasion is a brittle decision that the detector misses.
- `overestimate`: the same class, and a score that looks robust. The moved image may have *become* robust. Kept within
  epsilon of an adversarial image of the old one, too, it cannot: that image is its witness.

Both climb a score, not a success, so that one run serves every threshold.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from margincons.attacks.pgd import random_start
from margincons.attacks.result import WITNESS_FRACTION, in_two_batches, rival_lead
from margincons.brief import Brief
from margincons.detector.climb import PER_TARGET, plan, search
from margincons.detector.scored_network import ScoredNetwork
from margincons.errors import ShapeError, UsageError
from margincons.passes import evaluating, verification
from margincons.pseudo_margin import PseudoMargin
from margincons.threat import ThreatModel, check_images, per_item, places


@dataclass(frozen=True, kw_only=True, repr=False)
class Deceptions(Brief):
    """Where an attack on a detector ended, one entry per image, looked at again in another batch."""

    images: Tensor  # (n, c, h, w), in [0, 1] and in the ball; the clean image where the attack failed
    success: Tensor  # (n,), bool: the class is one that was wanted, by a clear lead
    scores: Tensor  # (n,), the lower of two passes, high where it looks robust; minus infinity where it failed
    predicted: Tensor  # (n,), class of the image here

    def overlooked(self, threshold: float) -> Tensor:
        """Whether a detector that flags scores at or below a threshold lets each image pass as robust, (n,)."""
        return self.success & (self.scores > threshold)


def evade(
    model: nn.Module,
    inputs: Tensor,
    *,
    epsilon: float,
    score: str | PseudoMargin = "logit_margin",
    gradients: int = 100,
    seed: int = 0,
    indices: Tensor | None = None,
) -> Deceptions:
    """Change the class within an l_inf ball, and make the score as high as it will go.

    For a target class t, the lead f_t - max_j f_j over all others is climbed until t is the class; from there on, the
    score, which is that lead where the score is the logit margin. A few steps are spent on every promising target, a
    few more on the best three, the rest on three climbs for the best: steps start long, so as to cross the ball, and
    end short; each later climb starts near the best point so far. The best point of all is kept, not the last.

    Args:
        model: Maps images (n, c, h, w) in [0, 1] to logits (n, k).
        inputs: Clean images (n, c, h, w) in [0, 1].
        epsilon: Radius of the ball on the [0, 1] pixel scale.
        score: What the detector reads, as in `ScoredNetwork`.
        gradients: Backward passes per image, at most; the first-order margin takes ten where others take one.
        seed: With an image's index, fixes every random start.
        indices: Each image's place in its data set, (n,); its place in the batch unless given.

    Raises:
        PixelRangeError: If a pixel leaves [0, 1].
        ShapeError: If there is no image, or not one index per image, as a whole number.
        UsageError: If epsilon cannot be meant, or there is no gradient to spend.
        UnknownNameError: If no score has that name.
    """
    box, indices = _box(inputs, epsilon), places(indices, len(inputs))
    if gradients < 1:
        raise UsageError(f"Expected one gradient or more, got {gradients}.")
    with evaluating(model), torch.no_grad():
        scored = ScoredNetwork(model, inputs[:2], score=score)
        logits = model(inputs)
        own = logits.argmax(dim=1)
        promising = max(1, min(logits.shape[1] - 1, gradients // PER_TARGET))
        targets = logits.scatter(1, own[:, None], -torch.inf).topk(promising, dim=1).indices
        found = search(
            scored, inputs, box, targets, plan(gradients, promising), epsilon=epsilon, seed=seed, indices=indices
        )
        return _judge(scored, inputs, found, box, own, keep=False)


def overestimate(
    model: nn.Module,
    inputs: Tensor,
    *,
    epsilon: float,
    witnesses: Tensor | None = None,
    score: str | PseudoMargin = "logit_margin",
    gradients: int = 100,
    seed: int = 0,
    indices: Tensor | None = None,
) -> Deceptions:
    """Keep the class within an l_inf ball, and make the score as high as it will go.

    Args:
        model: Maps images (n, c, h, w) in [0, 1] to logits (n, k).
        inputs: Clean images (n, c, h, w) in [0, 1]: brittle ones, or nothing is overestimated.
        epsilon: Radius of the ball on the [0, 1] pixel scale.
        witnesses: Adversarial images (n, c, h, w), each within 2 epsilon of its image. The search stays within epsilon
            of them as well, so that whatever it finds is brittle still. Without them the moved image may be robust.
        score: What the detector reads, as in `ScoredNetwork`.
        gradients: Backward passes per image, at most.
        seed: With an image's index, fixes every random start.
        indices: Each image's place in its data set, (n,).

    Raises:
        PixelRangeError: If a pixel leaves [0, 1].
        ShapeError: If there is no image, not one index per image, as a whole number, or the witnesses are not shaped as
            the images.
        UsageError: If epsilon cannot be meant, there is no gradient to spend, or a witness is too far away or of its
            image's own class.
        UnknownNameError: If no score has that name.
    """
    (low, high), indices = _box(inputs, epsilon), places(indices, len(inputs))
    if gradients < 1:
        raise UsageError(f"Expected one gradient or more, got {gradients}.")
    if witnesses is not None:
        if witnesses.shape != inputs.shape:
            raise ShapeError("witnesses", f"one per image, {tuple(inputs.shape)}", tuple(witnesses.shape))
        near = _box(witnesses, epsilon)
        low, high = torch.maximum(low, near[0]), torch.minimum(high, near[1])
        if (low > high).any():
            raise UsageError("Expected each witness within 2 epsilon of its image, got one that is further away.")
    with evaluating(model), torch.no_grad():
        scored = ScoredNetwork(model, inputs[:2], score=score)
        own = model(inputs).argmax(dim=1)
        if witnesses is not None and (same := int((model(witnesses).argmax(dim=1) == own).sum())):
            failed = f"{same} of {len(own)} are not; did the attack fail there?"
            raise UsageError(f"Expected each witness to be of another class than its image, {failed}")
        steps = plan(gradients, 1)
        found = search(scored, inputs, (low, high), own[:, None], steps, epsilon=epsilon, seed=seed, indices=indices)
        return _judge(scored, inputs, found, (low, high), own, keep=True)


def wrong_class_pgd(
    model: nn.Module,
    inputs: Tensor,
    *,
    epsilon: float,
    gradients: int = 100,
    restarts: int = 1,
    step_size: float = 2.0,
    seed: int = 0,
    indices: Tensor | None = None,
) -> Deceptions:
    """The plain attack to compare `evade` with: top logit minus runner-up where the class is wrong, climbed by PGD.

    Where the class is still right, the lead of the best other class is climbed. The first start is the clean image, the
    others are drawn from the ball; steps shrink in proportion to the steps left; the best point of all is kept.

    Source: Ngnawe et al., 2024, arXiv:2406.18451, whose strongest attack climbs this loss; schedule and restarts are
    ours to choose.

    Args:
        model: Maps images (n, c, h, w) in [0, 1] to logits (n, k).
        inputs: Clean images (n, c, h, w) in [0, 1].
        epsilon: Radius of the l_inf ball on the [0, 1] pixel scale.
        gradients: Backward passes per image, over all restarts.
        restarts: Number of starts.
        step_size: First step of each start, in epsilon.
        seed: With an image's index, fixes every random start.
        indices: Each image's place in its data set, (n,).

    Raises:
        PixelRangeError: If a pixel leaves [0, 1].
        ShapeError: If there is no image, or not one index per image, as a whole number.
        UsageError: If epsilon cannot be meant, or there are fewer gradients than restarts.
    """
    (low, high), indices = _box(inputs, epsilon), places(indices, len(inputs))
    if not 1 <= restarts <= gradients:
        raise UsageError(f"Expected between one restart and one per gradient ({gradients}), got {restarts}.")
    threat, steps = ThreatModel(norm="Linf", epsilon=epsilon), gradients // restarts
    with evaluating(model), torch.no_grad():
        scored = ScoredNetwork(model, inputs[:2])
        own = model(inputs).argmax(dim=1)
        best, most = inputs, torch.full_like(inputs[:, 0, 0, 0], -torch.inf)
        for restart in range(restarts):
            draws = {"seed": seed, "indices": indices, "restart": restart}
            points = random_start(inputs, threat, **draws) if restart else inputs
            for step in range(steps + 1):
                with torch.set_grad_enabled(step < steps):
                    points = points.detach().requires_grad_(step < steps)
                    leads = wrong_class_margin(model(points), own)
                    gradient = torch.autograd.grad(leads.sum(), points)[0] if step < steps else 0 * points
                points, leads = points.detach(), leads.detach()
                better = leads > most
                best, most = torch.where(per_item(better, points), points, best), torch.where(better, leads, most)
                length = step_size * epsilon * (1 - step / steps)
                points = (points + length * gradient.sign()).clamp(low, high)
        return _judge(scored, inputs, best, (low, high), own, keep=False)


def wrong_class_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The largest lead f_t - max_j f_j of any other class t than ``labels``, (n,): the logit margin of a wrong class.

    Negative where the class is right: then the lead of the best other class over it.
    """
    lead = rival_lead(logits, labels)
    top = logits.topk(2, dim=1).values
    return torch.where(lead > 0, top[:, 0] - top[:, 1], lead)


def _judge(
    scored: ScoredNetwork, inputs: Tensor, points: Tensor, box: tuple[Tensor, Tensor], own: Tensor, *, keep: bool
) -> Deceptions:
    """Look again, in two batches: the class must be right in both, and the lower score counts."""

    def outputs(points: Tensor) -> Tensor:
        logits, scores = scored(points)
        return torch.cat([logits, scores[:, None]], dim=1).detach()

    points = points.nan_to_num(0).clamp(*box)
    with verification(scored.model):
        seen = torch.stack(in_two_batches(outputs, points))
    logits, scores = seen[..., :-1], seen[..., -1].amin(dim=0)
    sides = torch.stack([rival_lead(one, own) for one in logits]) * (-1 if keep else 1)
    success = (sides > WITNESS_FRACTION * logits.abs().amax(dim=2)).all(dim=0) & scores.isfinite()
    return Deceptions(
        images=torch.where(per_item(success, points), points, inputs),
        success=success,
        scores=torch.where(success, scores, -torch.inf),
        predicted=torch.where(success, logits[0].argmax(dim=1), own),
    )


def _box(inputs: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    check_images(inputs)
    ThreatModel(norm="Linf", epsilon=epsilon)  # refuses 8 for 8/255
    return (inputs - epsilon).clamp(min=0), (inputs + epsilon).clamp(max=1)
