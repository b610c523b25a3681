"""An intervention: press the features of a class together while it is learned, and see what else changes."""

import torch
from torch import Tensor, nn

from margincons.zoo.recipes import Loss


def spread_ratio(features: Tensor, labels: Tensor) -> Tensor:
    """Mean squared distance of features to their class mean, over that of the class means to their own mean.

    A differentiable relative of the first measure of neural collapse: 0 exactly where each class of the batch has one
    feature. It has no scale, so smaller features with larger weights do not lower it.

    Args:
        features: Of a batch, (n, d).
        labels: Classes, (n,), two or more different ones.
    """
    present, place = labels.unique(return_inverse=True)
    member = torch.nn.functional.one_hot(place, len(present)).to(features)
    means = member.T @ features / member.sum(dim=0)[:, None]
    within = (features - means[place]).square().sum(dim=1).mean()
    return within / (means - means.mean(dim=0)).square().sum(dim=1).mean()


def collapsing(loss: Loss, strength: float) -> Loss:
    """Add `spread_ratio` of the last layer's inputs on clean images to a loss.

    Pulling features to class centres is the idea of Wen et al., 2016, "A discriminative feature learning approach for
    deep face recognition", ECCV; here centres are the batch's own means.

    Args:
        loss: Of a network whose last module is the last layer.
        strength: What the ratio is multiplied by; 0 gives the loss itself.
    """

    def total(model: nn.Sequential, inputs: Tensor, labels: Tensor, epsilon: float) -> Tensor:
        value = loss(model, inputs, labels, epsilon)
        return value + strength * spread_ratio(model[:-1](inputs), labels) if strength else value

    return total
