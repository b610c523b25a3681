"""Every score of a network on the same images, and what each costs: passes counted, processor time measured."""

import functools
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from margincons.certificates import lower_bounds
from margincons.classifier import Classifier, Outputs
from margincons.costly_scores import clever, gradient_norm, neighbour_distance, smoothing_radius
from margincons.data import Images
from margincons.errors import NoHeadError, UnsupportedLayerError
from margincons.labelled_margins import LabelledMargins
from margincons.margins import input_margins
from margincons.passes import CountPasses
from margincons.pseudo_margin import PseudoMargin, fit_pseudo_margin
from margincons.scores import SCORES, doctor, first_order_margin

BATCH = 200  # images scored at once


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the scores are asked; all chosen before any was held against a margin."""

    norm: str = "Linf"  # of gradients, features, CLEVER and certificates; smoothing knows L2 only
    epsilon: float = 0.1  # CLEVER samples the ball of three times this radius
    sigma: float = 0.25  # noise of smoothing
    votes: int = 500
    clever_batches: int = 20
    clever_samples: int = 16
    rivals: int = 9
    neighbour: int = 5
    refine: int = 64  # of CROWN: wider layers keep interval bounds, which is faster and looser
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Known:
    """Images apart from those that are scored, and what was learned from them once."""

    features: Tensor | None  # (m, d)
    pseudo_margin: PseudoMargin
    once: dict[str, dict[str, int]]  # passes in all, forward and backward, of the scores that need these images


@dataclass(frozen=True, kw_only=True)
class Job:
    """One batch to score."""

    model: CountPasses
    classifier: Classifier  # of that counted network
    inputs: Tensor
    indices: Tensor  # places in the data set
    known: Known
    settings: Settings

    def outputs(self) -> Outputs:
        """One forward pass."""
        return self.classifier(self.inputs, batch_size=len(self.inputs))


def _free(name: str, job: Job) -> Tensor:
    if SCORES[name].needs_head and job.classifier.head is None:
        raise NoHeadError(job.classifier.no_head_reason)
    return SCORES[name].compute(job.outputs(), job.classifier.head, job.settings.norm)


def _neighbours(job: Job) -> Tensor:
    if job.known.features is None:
        raise NoHeadError(job.classifier.no_head_reason)
    return neighbour_distance(job.outputs().features, job.known.features, k=job.settings.neighbour)


def _certified(method: str, job: Job) -> Tensor:
    options = {"norm": job.settings.norm, "refine": job.settings.refine, "tolerance": 0.01}
    labels = job.outputs().predicted
    return lower_bounds(job.model.model, job.inputs, method=method, labels=labels, **options)


def _smoothed(job: Job) -> Tensor:
    ask = job.settings
    return smoothing_radius(
        job.model, job.inputs, sigma=ask.sigma, samples=ask.votes, seed=ask.seed, indices=job.indices
    )


def clever_options(asked: Settings) -> dict[str, str | float | int]:
    """What CLEVER is asked, by the names of its arguments."""
    sizes = {"batches": asked.clever_batches, "samples": asked.clever_samples, "rivals": asked.rivals}
    return {"norm": asked.norm, "radius": 3 * asked.epsilon, "seed": asked.seed} | sizes


def _clever(job: Job) -> Tensor:
    return clever(job.model, job.inputs, **clever_options(job.settings), indices=job.indices)


def _attacked(job: Job) -> Tensor:
    options = {"norm": job.settings.norm, "seed": job.settings.seed, "indices": job.indices}
    return input_margins(job.model, job.inputs, effort="fast", **options).upper


def _first_order(rivals: int | None, job: Job) -> Tensor:
    rivals = job.settings.rivals if rivals is None else rivals
    return first_order_margin(job.model, job.inputs, norm=job.settings.norm, rivals=rivals)


SCORED: dict[str, Callable[[Job], Tensor]] = {
    **{name: functools.partial(_free, name) for name in SCORES},
    "doctor": lambda job: doctor(job.outputs().logits),
    "neighbour_distance": _neighbours,
    "pseudo_margin": lambda job: job.known.pseudo_margin(job.outputs()),
    "gradient_norm": lambda job: gradient_norm(job.model, job.inputs, norm=job.settings.norm),
    "first_order_runner_up": functools.partial(_first_order, 1),
    "first_order_margin": functools.partial(_first_order, None),
    "interval_radius": functools.partial(_certified, "interval"),
    "crown_radius": functools.partial(_certified, "crown"),
    "fast_attack": _attacked,
    "smoothing_radius": _smoothed,
    "clever": _clever,
}
CERTIFIED = ("interval_radius", "crown_radius")  # whose work is not the network's passes: only their time tells


def learn_from(model: nn.Module, images: Images, settings: Settings) -> Known:
    """Pass the known images through the network, measure their margins, and fit a pseudo-margin to these.

    Args:
        model: The network.
        images: Other images than those that will be scored, named "<data>/train" or "<data>/calibration".
        settings: What the scores are asked.
    """
    counted = CountPasses(model)
    outputs = Classifier(model, images.inputs[:2])(images.inputs)
    bounds = input_margins(counted, images.inputs, effort="standard", norm=settings.norm, seed=settings.seed)
    found = torch.isfinite(bounds.upper)
    labelled = LabelledMargins(
        outputs=Outputs(
            logits=outputs.logits[found], features=None if outputs.features is None else outputs.features[found]
        ),
        margins=bounds.upper[found],
        data=images.name,
        left_out=int((~found).sum()),
    )
    inputs = "logits" if outputs.features is None else "features"
    learned = {
        "forward": len(images) + counted.forward_images + counted.verification_images,
        "backward": counted.backward_images,
    }
    return Known(
        features=outputs.features,
        pseudo_margin=fit_pseudo_margin(labelled, inputs=inputs, seed=settings.seed),
        once={"neighbour_distance": {"forward": len(images), "backward": 0}, "pseudo_margin": learned},
    )


def score_images(
    model: nn.Module,
    images: Images,
    known: Known,
    settings: Settings,
    *,
    rows: Sequence[int] | None = None,
    names: Sequence[str] = tuple(SCORED),
    progress: bool = True,
) -> tuple[pd.DataFrame, dict[str, dict[str, float]]]:
    """Score images by every score that the network allows.

    Args:
        model: The network, on the CPU, in eval mode.
        images: The data set.
        known: From `learn_from`.
        settings: What the scores are asked.
        rows: Places of the images; all unless given.
        names: Keys of `SCORED`.
        progress: Whether to draw a bar on stderr.

    Returns:
        A table, one row per image: "index", "label", "predicted" and the scores; and by score what an image costs:
        "forward" and "backward" passes, "seconds" of processor time, and passes "once" where other images are needed.
    """
    rows = torch.arange(len(images)) if rows is None else torch.as_tensor(list(rows))
    counted = CountPasses(model)
    classifier = Classifier(counted, images.inputs[:2])
    columns = {"index": rows.numpy(), "label": images.labels[rows].numpy()}
    columns["predicted"] = classifier(images.inputs[rows]).predicted.numpy()
    costs = {}
    for name in tqdm(names, desc="scores", disable=not progress, file=sys.__stderr__):
        before, started = _counts(counted), time.process_time()
        with suppress(UnsupportedLayerError, NoHeadError):  # a score that this network does not allow is left out
            columns[name] = np.concatenate(
                [
                    SCORED[name](
                        Job(
                            model=counted,
                            classifier=classifier,
                            inputs=images.inputs[part],
                            indices=part,
                            known=known,
                            settings=settings,
                        )
                    ).numpy()
                    for part in rows.split(BATCH)
                ]
            )
            spent = (_counts(counted) - before) / len(rows)
            costs[name] = {"forward": spent[0], "backward": spent[1]}
            costs[name] |= {"seconds": (time.process_time() - started) / len(rows)} | (
                {"once": known.once[name]} if name in known.once else {}
            )
    return pd.DataFrame(columns), costs


def _counts(counted: CountPasses) -> np.ndarray:
    return np.array([counted.forward_images + counted.verification_images, counted.backward_images], dtype=float)
