"""Shifted images: what happens to pictures between the laboratory and the world, each change in graded severities.

Every shift is a pure function of images, a strength and, where it draws, a seed. Draws belong to an image's place in
its data set, as in attacks, so that a shifted image is the same in every batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from margincons.attacks.randomness import gaussian, uniform
from margincons.errors import UnknownNameError, UsageError
from margincons.threat import check_images, places

OCCLUDER = 0.5  # grey: on digits neither ink nor paper


@dataclass(frozen=True, kw_only=True)
class Shift:
    """One way in which images change, and how far at severities 1, 2, 3."""

    apply: Callable[..., Tensor]  # images (n, c, h, w), a strength, then keywords: seed and indices
    strengths: tuple[float, ...]
    unit: str  # what a strength counts


def shift(inputs: Tensor, severity: int, *, name: str, seed: int = 0, indices: Tensor | None = None) -> Tensor:
    """Change images in one of the ways of `SHIFTS`.

    Source: Hendrycks and Dietterich, 2019, arXiv:1903.12261, for the idea of corruptions in graded severities. The
    strengths are ours, chosen for small images before anything was measured on them.

    Args:
        inputs: Images (n, c, h, w) in [0, 1].
        severity: 0 for the images as they are, else 1, 2 or 3.
        name: Which shift.
        seed: Fixes noise, directions and places.
        indices: Each image's place in its data set (n,); 0 .. n - 1 when None.

    Returns:
        Images (n, c, h, w) in [0, 1].

    Raises:
        UnknownNameError: If there is no such shift.
        UsageError: If there is no such severity.
        ShapeError: If there is not one index per image, as a whole number.
        PixelRangeError: If an image leaves [0, 1].
    """
    check_images(inputs)
    if name not in SHIFTS:
        raise UnknownNameError("shift", name, SHIFTS)
    chosen = SHIFTS[name]
    if severity not in range(len(chosen.strengths) + 1):
        raise UsageError(f"Expected a severity from 0 to {len(chosen.strengths)}, got {severity}.")
    indices = places(indices, len(inputs))
    if severity == 0 or not len(inputs):
        return inputs.clone()
    return chosen.apply(inputs, chosen.strengths[int(severity) - 1], seed=seed, indices=indices).clamp(0, 1)


def noise(inputs: Tensor, strength: float, *, seed: int, indices: Tensor) -> Tensor:
    """Add independent Gaussian noise of this standard deviation to every value."""
    drawn = gaussian(tuple(inputs.shape[1:]), seed=seed, indices=indices, restart=0, device=inputs.device)
    return inputs + strength * drawn.to(inputs)


def contrast(inputs: Tensor, strength: float, **_: object) -> Tensor:
    """Pull every value towards the mean of its image by this share of the way: 1 leaves a grey square."""
    return inputs.lerp(inputs.mean(dim=(1, 2, 3), keepdim=True), strength)


def brightness(inputs: Tensor, strength: float, **_: object) -> Tensor:
    """Add the same to every value."""
    return inputs + strength


def blur(inputs: Tensor, strength: float, **_: object) -> Tensor:
    """Average with Gaussian weights of this standard deviation in pixels, cut at four of them; edges are continued."""
    reach = int(4 * strength + 0.5)
    places = torch.arange(-reach, reach + 1, device=inputs.device, dtype=inputs.dtype)
    weights = (-0.5 * (places / strength) ** 2).softmax(dim=0)
    channels = inputs.shape[1]
    for shape, pad in (((1, 1, -1, 1), (0, 0, reach, reach)), ((1, 1, 1, -1), (reach, reach, 0, 0))):
        kernel = weights.view(shape).expand(channels, -1, -1, -1)
        inputs = functional.conv2d(functional.pad(inputs, pad, mode="replicate"), kernel, groups=channels)
    return inputs


def low_resolution(inputs: Tensor, strength: float, **_: object) -> Tensor:
    """Average down to sides shorter by this factor, and repeat pixels back to the old size."""
    sides = tuple(max(1, round(side / strength)) for side in inputs.shape[2:])
    smaller = functional.adaptive_avg_pool2d(inputs, sides)
    return functional.interpolate(smaller, size=inputs.shape[2:], mode="nearest-exact")  # "nearest" leans to a corner


def translation(inputs: Tensor, strength: float, *, seed: int, indices: Tensor) -> Tensor:
    """Move each image by this many pixels up, down, left or right, as drawn; edge pixels are repeated behind it."""
    step = int(strength)
    height, width = inputs.shape[2:]
    larger = functional.pad(inputs, (step,) * 4, mode="replicate")
    corners = torch.tensor([(2, 1), (0, 1), (1, 2), (1, 0)]) * step
    drawn = (4 * uniform((1,), seed=seed, indices=indices, restart=0, device="cpu")).long().flatten()
    moved = [
        image[:, top : top + height, left : left + width]
        for image, (top, left) in zip(larger, corners[drawn].tolist(), strict=True)
    ]
    return torch.stack(moved)


def occlusion(inputs: Tensor, strength: float, *, seed: int, indices: Tensor) -> Tensor:
    """Cover a grey square, whose side is this share of the image's shorter one, at a place drawn for each image."""
    height, width = inputs.shape[2:]
    side = round(strength * min(height, width))
    drawn = uniform((2,), seed=seed, indices=indices, restart=0, device="cpu")
    corners = (drawn * torch.tensor([height - side + 1, width - side + 1])).long().to(inputs.device)
    rows = torch.arange(height, device=inputs.device) - corners[:, :1]
    columns = torch.arange(width, device=inputs.device) - corners[:, 1:]
    covered = ((rows >= 0) & (rows < side))[:, None, :, None] & ((columns >= 0) & (columns < side))[:, None, None]
    return inputs.masked_fill(covered, OCCLUDER)


SHIFTS = {
    "noise": Shift(apply=noise, strengths=(0.1, 0.2, 0.3), unit="standard deviation"),
    "contrast": Shift(apply=contrast, strengths=(0.25, 0.5, 0.75), unit="share of the way to grey"),
    "brightness": Shift(apply=brightness, strengths=(0.1, 0.2, 0.3), unit="added to every pixel"),
    "blur": Shift(apply=blur, strengths=(0.5, 0.75, 1.0), unit="standard deviation, pixels"),
    "low_resolution": Shift(apply=low_resolution, strengths=(1.6, 2.0, 8 / 3), unit="times fewer pixels a side"),
    "translation": Shift(apply=translation, strengths=(1, 2, 3), unit="pixels"),
    "occlusion": Shift(apply=occlusion, strengths=(0.25, 0.375, 0.5), unit="share of the side"),
}
