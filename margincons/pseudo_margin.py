"""Pseudo-margins: a small network learns input margins from features or logits, and scores new images for free."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, softplus

from margincons.classifier import Outputs
from margincons.errors import DegenerateError, NoHeadError, ShapeError, UnknownNameError, UsageError
from margincons.labelled_margins import LabelledMargins
from margincons.statistics.weighted import dense_ranks

INPUTS = ("features", "logits")
HELD_OUT = 0.2  # share of the images learned from that decides when to stop, as in the paper
FEWEST = 10  # images to learn from


def _share_of_largest(margins: Tensor) -> Tensor:
    """Share of the largest margin, d / max d: the paper's text."""
    return margins / margins.max()


def _root(margins: Tensor) -> Tensor:
    """Square root of d, the paper's code; of d / max d where margins exceed 1."""
    return (margins / margins.max().clamp_min(1)).sqrt()


def _rank(margins: Tensor) -> Tensor:
    """Rank of d from 0 to 1, equal margins alike."""
    ranks = torch.from_numpy(dense_ranks(margins.cpu().numpy())).to(margins)
    return ranks / ranks.max().clamp_min(1)


TARGETS: dict[str, Callable[[Tensor], Tensor]] = {"max": _share_of_largest, "sqrt": _root, "rank": _rank}


def _squared(scores: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of a sigmoid's output."""
    return mse_loss(scores.sigmoid(), target)


def _ranking(scores: Tensor, target: Tensor) -> Tensor:
    """Logistic loss over pairs, the mean over those whose targets differ. Source: Burges et al., 2005, ICML."""
    smaller = target[:, None] < target
    losses = softplus(scores[:, None] - scores)  # falls as the image with the larger margin pulls ahead
    return (losses * smaller).sum() / smaller.sum().clamp_min(1)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": _squared, "ranking": _ranking}


@dataclass(frozen=True, kw_only=True)
class PseudoMargin:
    """A fitted score: call it on `Outputs` of the same network. Low where brittle, like a margin."""

    network: nn.Module  # standardised inputs (n, d) to one number each
    centre: Tensor  # (d,), subtracted from the inputs
    scale: Tensor  # (d,), divides them
    inputs: str  # "features" or "logits"
    data: str  # what it was learned from: "digits/train"
    n_fit: int  # images it was learned from, held-out ones among them
    epochs: int  # passes after which the held-out loss was least
    held_out_loss: float

    @torch.no_grad()
    def __call__(self, outputs: Outputs) -> Tensor:
        """Scores (n,), in no unit: before the sigmoid, which would tie the extremes."""
        return self.network(standardised(outputs, self.inputs, self.centre, self.scale))[:, 0]


def standardised(outputs: Outputs, inputs: str, centre: Tensor, scale: Tensor) -> Tensor:
    """Features or logits (n, d) on the scale that they had while a pseudo-margin was learned from them.

    Raises:
        NoHeadError: If it reads features and the network has none.
        ShapeError: If they are of another width: of another network.
    """
    columns = _inputs_of(outputs, inputs)
    if columns.shape[1:] != centre.shape:
        expected = f"those of the network that the pseudo-margin was fitted to, (n, {len(centre)})"
        raise ShapeError(f"the {inputs}", expected, tuple(columns.shape))
    return (columns - centre) / scale


def fit_pseudo_margin(
    labelled: LabelledMargins,
    *,
    inputs: str = "features",
    target: str = "max",
    loss: str = "mse",
    n: int | None = None,
    seed: int = 0,
    width: int = 128,
    depth: int = 3,
    epochs: int = 300,
    patience: int = 40,
) -> PseudoMargin:
    """Learn input margins with a multi-layer perceptron.

    A fifth of the images is held out; the weights with the least held-out loss are kept. Which images, the first
    weights and the order of batches each have a generator of their own, so that none depends on another's use.

    Source: Ngnawe et al., 2024, arXiv:2406.18451, section 5, whose network has five layers of 512; the smaller one
    fits hundreds of images as well and in a second. The ranking loss is ours to compare.

    Args:
        labelled: From `labelled_margins`: never of test images.
        inputs: "features" or "logits".
        target: "max" (d / max d), "sqrt" or "rank"; to the ranking loss all are the same.
        loss: "mse" through a sigmoid, or "ranking".
        n: How many of the images, drawn at random; all when None.
        seed: Fixes which images, the first weights and the batches.
        width: Units of each hidden layer.
        depth: Hidden layers.
        epochs: Most passes over the images.
        patience: Passes without a lower held-out loss after which learning stops.

    Raises:
        UnknownNameError: If an input, target or loss does not exist.
        NoHeadError: If features are wanted and the network has none.
        UsageError: If ``n`` is more than there are, or a number of units, layers, passes or images cannot be meant.
        DegenerateError: If there are fewer than ten images, or their margins are all alike; or those of the held-out
            ones, which a ranking loss then cannot judge.
    """
    if min(width, epochs, patience) < 1 or min(depth, n or 0) < 0:
        raise UsageError(
            "Expected a width, epochs and a patience of 1 or more and a depth and n of 0 or more, "
            f"got {width}, {epochs}, {patience}, {depth} and {n}."
        )
    for kind, name, known in (("input", inputs, INPUTS), ("target", target, TARGETS), ("loss", loss, LOSSES)):
        if name not in known:
            raise UnknownNameError(f"{kind} of a pseudo-margin", name, known)
    columns, rows = _inputs_of(labelled.outputs, inputs), _drawn(labelled, n, seed)
    held, kept = rows[: max(1, round(HELD_OUT * len(rows)))], rows[max(1, round(HELD_OUT * len(rows))) :]
    centre, scale = columns[kept].mean(dim=0), columns[kept].std(dim=0)
    columns = (columns - centre) / scale.where(scale > 0, 1)
    targets = torch.zeros_like(labelled.margins)
    targets[rows] = TARGETS[target](labelled.margins[rows])
    if loss == "ranking" and (targets[held] == targets[held[0]]).all():
        raise DegenerateError("A ranking loss", f"the margins of all {len(held)} held-out images are alike")
    network = _perceptron(columns.shape[1], width, depth, seed).to(columns.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=1e-4, fused=True)
    order = torch.Generator().manual_seed(seed)
    least, best, weights = torch.inf, 0, {}
    for epoch in range(1, epochs + 1):
        for batch in kept[torch.randperm(len(kept), generator=order)].split(128):
            value = LOSSES[loss](network(columns[batch])[:, 0], targets[batch])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        with torch.no_grad():
            outside = LOSSES[loss](network(columns[held])[:, 0], targets[held]).item()
        if outside < least:
            least, best = outside, epoch
            weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        if epoch - best >= patience:
            break
    network.load_state_dict(weights)
    return PseudoMargin(
        network=network.eval().requires_grad_(requires_grad=False),
        centre=centre,
        scale=scale.where(scale > 0, 1),
        inputs=inputs,
        data=labelled.data,
        n_fit=len(rows),
        epochs=best,
        held_out_loss=least,
    )


def _inputs_of(outputs: Outputs, inputs: str) -> Tensor:
    if inputs == "logits":
        return outputs.logits
    if outputs.features is None:
        raise NoHeadError("this one does not")
    return outputs.features


def _drawn(labelled: LabelledMargins, n: int | None, seed: int) -> Tensor:
    """Rows to learn from, (n,), in random order: fewer of them are the first of more."""
    if (n or 0) > len(labelled):
        raise UsageError(f"Expected at most the {len(labelled)} labelled margins that there are, got n={n}.")
    rows = torch.randperm(len(labelled), generator=torch.Generator().manual_seed(seed))[:n]
    if len(rows) < FEWEST:
        raise DegenerateError("A pseudo-margin", f"it needs {FEWEST} labelled margins or more, got {len(rows)}")
    if (labelled.margins[rows] == labelled.margins[rows[0]]).all():
        raise DegenerateError("A pseudo-margin", f"all {len(rows)} labelled margins are {labelled.margins[rows[0]]:g}")
    return rows


def _perceptron(inputs: int, width: int, depth: int, seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = [inputs, *[width] * depth]
        hidden = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(sizes[-1], 1))
