"""A recipe without its end: the network after so many epochs of training that does not slow down.

A one-cycle schedule sets the epoch at which training stops and anneals towards it, so networks taken from it half-way
differ from its last by the learning rate as well as by time. Here, after a warm-up, nothing but time passes: the
learning rate and the radius trained against stay as they are.
"""

import copy
import sys
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from tqdm import tqdm

from margincons.data import load_images
from margincons.errors import UnknownNameError, UsageError
from margincons.zoo.bundled import ARCHITECTURES
from margincons.zoo.recipes import RECIPES, one_epoch

WARM_UP = 16  # epochs in which learning rate and radius rise linearly
LEARNING_RATE = 1e-3  # after it


def checkpoints(
    model_id: str, epochs: Sequence[int], *, seed: int = 0, progress: bool = False
) -> Iterator[tuple[int, nn.Module]]:
    """Train by a recipe's loss, radius, optimizer and batches, at a constant rate, and stop by at given epochs.

    Args:
        model_id: A key of `RECIPES`.
        epochs: At the end of which a network is wanted, rising; 0 is the untrained one.
        seed: Fixes the first weights, the order of images and the inner attacks, wherever the checkpoints lie.
        progress: Whether to draw a bar over epochs.

    Yields:
        The epoch, and a copy of the network as it is then, in eval mode.

    Raises:
        UnknownNameError: If no recipe has that id.
        UsageError: If the epochs do not rise from 0 or more.
    """
    if model_id not in RECIPES:
        raise UnknownNameError("recipe", model_id, RECIPES)
    if not epochs or sorted({0, *epochs}) != [*([0] if epochs[0] else []), *epochs]:
        raise UsageError(f"Expected epochs that rise from 0 or more, got {list(epochs)}.")
    recipe, images = RECIPES[model_id], load_images("digits", split="train")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ARCHITECTURES[recipe.architecture]()
        state = torch.get_rng_state()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    steps = WARM_UP * -(-len(images) // 64)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / steps))
    for epoch in tqdm(range(epochs[-1] + 1), desc=f"{model_id} seed {seed}", disable=not progress, file=sys.__stderr__):
        if epoch:
            with torch.random.fork_rng(devices=[]):  # what is done with a checkpoint must not change the next
                torch.set_rng_state(state)
                radius = recipe.epsilon * min(1.0, epoch / WARM_UP)
                parts = {"loss": recipe.loss, "optimizer": optimizer, "schedule": schedule}
                one_epoch(model.train(), images, epsilon=radius, **parts)
                state = torch.get_rng_state()
        if epoch in epochs:
            yield epoch, recipe.finish(copy.deepcopy(model).eval()).eval()
