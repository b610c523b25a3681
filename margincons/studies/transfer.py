"""Transferability: what perturbations made for one network do to another."""

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor, nn

from margincons.errors import DegenerateError
from margincons.passes import evaluating
from margincons.statistics.intervals import estimate


@torch.no_grad()
def transfer_rates(
    models: Mapping[str, nn.Module], candidates: Mapping[str, Tensor], inputs: Tensor, labels: Tensor
) -> pd.DataFrame:
    """Share of a target's correctly classified images that it misclassifies after an attack on another network.

    The denominator belongs to the target alone, so the sources of one column compare. Nothing is left out where the
    attack failed on its own network: that would keep the images that are easy for everybody.

    Source: Papernot et al., 2016, arXiv:1605.07277, for the matrix; the intervals are ours.

    Args:
        models: Targets by name; each maps images (n, c, h, w) to logits (n, k).
        candidates: By name of the network they were made for, (n, c, h, w), in [0, 1].
        inputs: The clean images (n, c, h, w).
        labels: Their classes, (n,).

    Returns:
        One `Estimate` per pair: rows are sources, columns are targets.

    Raises:
        DegenerateError: If a target classifies no image correctly.
    """
    columns = {}
    for target, model in models.items():
        with evaluating(model):
            right = model(inputs).argmax(dim=1) == labels
            wrong = {source: model(moved).argmax(dim=1) != labels for source, moved in candidates.items()}
        if not right.any():
            raise DegenerateError("A transfer rate", f"{target} classifies no image correctly")
        columns[target] = {source: estimate("accuracy", one[right].cpu().numpy()) for source, one in wrong.items()}
    return pd.DataFrame(columns).rename_axis("made for")
