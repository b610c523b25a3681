"""The nearest crossing of each image that a search has found so far, and the forward passes that bring it nearer."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from margincons.attacks.result import WITNESS_FRACTION, rival_lead
from margincons.threat import per_item, vector_norm

CLEARANCE = 1.5 * WITNESS_FRACTION  # of the largest |logit|: how far past the boundary a search aims
NUDGE = 2e-5  # of the radius: how far past a predicted crossing the line search looks
STRETCHES = (1.003, 1.01, 1.03, 1.1, 1.3, 2.0, 4.0, 1e3)  # of the last perturbation, where nothing crossed
LINE_SEARCH = 3  # forward passes along a ray


def gap(logits: Tensor, labels: Tensor) -> Tensor:
    """Lead of each label over its best rival, plus the clearance, (n,): negative where the point is a witness."""
    return CLEARANCE * logits.abs().amax(dim=1) - rival_lead(logits, labels)


@dataclass(kw_only=True)
class Crossings:
    """Per image the nearest point across the boundary; before there is one, the last point that was tried."""

    model: nn.Module
    inputs: Tensor  # (n, c, h, w), in [0, 1]
    labels: Tensor  # (n,), classes to leave
    norm: str
    radius: Tensor  # (n,), infinite before the first crossing
    delta: Tensor  # (n, c, h, w), of that radius; the pixel box is left to `points`
    gap: Tensor  # (n,), to the best rival: negative once across
    rate: Tensor  # (n,), how fast the gap falls with the radius
    rival: Tensor  # (n,), the class that is entered

    @classmethod
    def none_yet(cls, model: nn.Module, inputs: Tensor, labels: Tensor, norm: str) -> "Crossings":
        """Start a search that has found nothing."""
        zeros = inputs.new_zeros(len(inputs))
        found = {"radius": zeros + torch.inf, "delta": torch.zeros_like(inputs), "gap": zeros, "rate": zeros + 1}
        return cls(model=model, inputs=inputs, labels=labels, norm=norm, rival=labels, **found)

    def points(self, scale: Tensor | None = None) -> Tensor:
        """The crossings as images (n, c, h, w) in [0, 1], their perturbations scaled by (n,) where given."""
        delta = self.delta if scale is None else per_item(scale, self.delta) * self.delta
        return (self.inputs + delta).clamp(0, 1)

    def update(self, image: Tensor, radius: Tensor, delta: Tensor, logits: Tensor, rate: Tensor) -> None:
        """Take in one new point per pair of image and rival."""
        gaps = gap(logits, self.labels[image])
        radius = torch.where(gaps < 0, radius, torch.inf)
        pair = _first_least(radius, image, len(self.radius))
        nearer = (radius[pair] < self.radius) | (self.radius == torch.inf)
        self.radius = torch.where(nearer, radius[pair], self.radius)
        self.gap = torch.where(nearer, gaps[pair], self.gap)
        self.rate = torch.where(nearer, rate[pair], self.rate)
        self.rival = torch.where(nearer, best_rival(logits, self.labels[image])[pair], self.rival)
        self.delta = torch.where(per_item(nearer, delta), delta[pair], self.delta)

    def stretch_misses(self) -> None:
        """Where nothing crossed, go on along the last perturbation."""
        missed = (self.radius == torch.inf).nonzero()[:, 0]
        for stretch in STRETCHES:
            if len(missed) == 0:
                return
            inputs, labels = self.inputs[missed], self.labels[missed]
            tried = (inputs + stretch * self.delta[missed]).clamp(0, 1)
            logits = self.model(tried)
            gaps = gap(logits, labels)
            crossed = gaps < 0
            found, delta = missed[crossed], (tried - inputs)[crossed]
            self.delta[found], self.gap[found] = delta, gaps[crossed]
            self.radius[found] = vector_norm(delta, self.norm)
            self.rival[found] = best_rival(logits, labels)[crossed]
            missed = missed[~crossed]

    def line_search(self) -> None:
        """Follow each image's ray back to the boundary by the secant rule."""
        shortest = scale = torch.ones_like(self.radius)
        best, last, fall = self.gap, self.gap, self.rate * self.radius
        for _ in range(LINE_SEARCH):
            last_scale, before = scale, last
            scale = (scale + last / fall).clamp(0.5, 1) + NUDGE
            last = gap(self.model(self.points(scale)), self.labels)
            nearer = (last < 0) & (scale < shortest)
            shortest, best = torch.where(nearer, scale, shortest), torch.where(nearer, last, best)
            secant = (before - last) / (scale - last_scale)
            fall = torch.where(secant.isfinite(), secant.clamp(fall / 4, fall * 4), fall)
        self.delta, self.radius, self.gap = per_item(shortest, self.delta) * self.delta, shortest * self.radius, best


def best_rival(logits: Tensor, labels: Tensor) -> Tensor:
    """The class that leads all but the label's, (n,)."""
    return logits.scatter(1, labels[:, None], -torch.inf).argmax(dim=1)


def _first_least(values: Tensor, image: Tensor, images: int) -> Tensor:
    """Place of each image's least value, (images,), the first of equals; every image owns at least one value."""
    least = values.new_full((images,), torch.inf).scatter_reduce(0, image, values, "amin")
    places = torch.arange(len(values), device=values.device)
    places = torch.where(values <= least[image], places, len(values))
    return torch.full_like(least, len(values), dtype=torch.long).scatter_reduce(0, image, places, "amin")
