"""Random draws that belong to an image, not to its place in a batch.

A counter-based generator: draw number i of (seed, index, restart) is a hash of those four integers, so any
part of a data set, in any order, in any batch, on any device, sees the same numbers.
"""

import math

import torch
from torch import Tensor

_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def uniform(shape: tuple[int, ...], *, seed: int, indices: Tensor, restart: int, device: torch.device | str) -> Tensor:
    """Draw uniformly from [0, 1), one independent stream per (seed, index, restart).

    Source: SplitMix64 (Steele, Lea and Flood, 2014, OOPSLA) as a hash of a counter. Integer arithmetic only,
    then 24 bits scaled exactly to fp32: the same bits on every device.

    Args:
        shape: Shape of one image's draws, without the batch axis: (c, h, w).
        seed: The run's seed, any integer.
        indices: Each image's place in its data set, (n,).
        restart: Which of an attack's starts this is.
        device: Where the draws are wanted.

    Returns:
        Draws (n, *shape), fp32.
    """
    indices = indices.to(device=device, dtype=torch.int64)
    key = _mix(_mix(_mix(torch.full_like(indices, _signed(seed))) + indices) + restart)
    counter = torch.arange(1, math.prod(shape) + 1, device=device)
    bits = _mix(key[:, None] + counter * _signed(_GOLDEN))
    return (_shift(bits, 40).to(torch.float32) * 2.0**-24).view(len(indices), *shape)


def gaussian(shape: tuple[int, ...], *, seed: int, indices: Tensor, restart: int, device: torch.device | str) -> Tensor:
    """Draw from the standard normal distribution, keyed as in `uniform`; equal across devices to rounding."""
    draws = uniform(shape, seed=seed, indices=indices, restart=restart, device=device).double()
    return torch.special.ndtri(draws + 2.0**-25).float()  # midpoints: the quantiles at 0 and 1 are infinite


def laplace(shape: tuple[int, ...], *, seed: int, indices: Tensor, restart: int, device: torch.device | str) -> Tensor:
    """Draw from the standard Laplace distribution, as `gaussian` does; over its l_1 norm, uniform on the sphere."""
    draws = uniform(shape, seed=seed, indices=indices, restart=restart, device=device).double()
    centred = 2 * (draws + 2.0**-25) - 1
    return (-centred.sign() * torch.log1p(-centred.abs())).float()


def _mix(state: Tensor) -> Tensor:
    state = state + _signed(_GOLDEN)
    state = (state ^ _shift(state, 30)) * _signed(_FIRST)
    state = (state ^ _shift(state, 27)) * _signed(_SECOND)
    return state ^ _shift(state, 31)


def _shift(state: Tensor, by: int) -> Tensor:
    return (state >> by) & ((1 << (64 - by)) - 1)  # torch shifts int64 arithmetically; the hash needs zeros


def _signed(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63
