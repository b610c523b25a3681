"""Pseudo-margins where the truth is known: a hyperplane whose logits were shuffled, losses written out pair by pair."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from margincons.classifier import Classifier, Outputs
from margincons.consistency import consistency
from margincons.data import load_images
from margincons.detection import detection
from margincons.errors import DegenerateError, NoHeadError, ShapeError, UnknownNameError, UsageError
from margincons.labelled_margins import labelled_margins
from margincons.pseudo_margin import HELD_OUT, LOSSES, TARGETS, fit_pseudo_margin
from margincons.zoo import state_sha256


class Shuffled(nn.Module):
    """A halfspace whose logits are stretched by what one pixel says: decisions and margins are the hyperplane's.

    The features are the stretched lead and the stretch, so that they still determine the margin; the logit margin is
    the stretched lead alone.
    """

    def __init__(self):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        weight = torch.randn(64, generator=draw)
        weight[20] = 0  # the pixel that stretches takes no part in the decision
        self.register_buffer("weight", weight / weight.abs().sum())
        self.head = nn.Linear(2, 2, bias=False)
        self.head.weight = nn.Parameter(torch.tensor([[0.5, 0.0], [-0.5, 0.0]]))

    def lead(self, inputs):
        return inputs.flatten(1) @ self.weight

    def forward(self, inputs):
        stretch = torch.exp(3 * inputs.flatten(1)[:, 20:21])
        return self.head(torch.cat([stretch * self.lead(inputs)[:, None], stretch], dim=1))


def exact_record(model, split):
    """What `measure` would write, with margins in closed form: |w.x| / ||w||_1, and ||w||_1 = 1."""
    images = load_images("digits", split=split)
    logits = model(images.inputs)
    table = pd.DataFrame({"index": np.arange(len(images)), "upper": model.lead(images.inputs).abs().numpy()})
    table["logit_margin"] = (logits[:, 0] - logits[:, 1]).abs().detach().numpy()
    table.attrs["settings"] = {
        "model": "shuffled",
        "weights_sha256": state_sha256(model),
        "data": images.name,
        "data_sha256": images.checksum(),
    }
    return table


@pytest.fixture(scope="module")
def shuffled():
    model = Shuffled()
    images = load_images("digits")
    classifier = Classifier(model, images.inputs)
    labelled = labelled_margins(classifier, exact_record(model, "train"), load_images("digits", split="train"))
    return labelled, classifier(images.inputs), exact_record(model, "test")


@pytest.mark.parametrize(("target", "loss"), [*((name, "mse") for name in TARGETS), ("rank", "ranking")])
def test_it_beats_the_logit_margin_where_the_features_know_the_margin_and_the_logits_forgot(shuffled, target, loss):
    labelled, outputs, table = shuffled
    fitted = fit_pseudo_margin(labelled, target=target, loss=loss, width=64, depth=2)
    scored = table.assign(pseudo_margin=fitted(outputs).numpy())
    epsilon = float(np.quantile(table["upper"], 0.2))
    before = consistency(scored, replicates=200)
    after = consistency(scored, score="pseudo_margin", replicates=200)
    assert before.tau.value < 0.75
    assert after.tau.low > before.tau.high + 0.05
    found = (
        detection(scored, epsilon=epsilon, score=score, replicates=200) for score in ("logit_margin", "pseudo_margin")
    )
    worse, better = (one.auroc.value for one in found)
    assert better > worse


def test_features_that_hold_the_stretch_teach_more_than_logits_that_do_not(shuffled):
    labelled, outputs, table = shuffled
    taus = {}
    for inputs in ("features", "logits"):  # the two logits are plus and minus one number
        fitted = fit_pseudo_margin(labelled, inputs=inputs, width=64, depth=2)
        scored = table.assign(pseudo_margin=fitted(outputs).numpy())
        taus[inputs] = consistency(scored, score="pseudo_margin", replicates=200).tau
    assert taus["features"].low > taus["logits"].high


def test_targets_are_increasing_lie_in_the_unit_interval_and_are_as_written():
    margins = torch.tensor([0.09, 0.36, 0.04, 0.36])
    assert_close(TARGETS["max"](margins), torch.tensor([0.25, 1.0, 1 / 9, 1.0]))
    assert_close(TARGETS["sqrt"](margins), torch.tensor([0.3, 0.6, 0.2, 0.6]))
    assert_close(TARGETS["rank"](margins), torch.tensor([0.5, 1.0, 0.0, 1.0]))
    assert_close(TARGETS["sqrt"](4 * margins), torch.tensor([0.5, 1.0, 1 / 3, 1.0]))  # an L2 margin may exceed 1
    for target in TARGETS.values():
        assert target(100 * margins).max() <= 1


def test_the_ranking_loss_is_the_logistic_loss_over_pairs_whose_margins_differ():
    scores, target = torch.tensor([0.3, -1.0, 2.0, 0.1]), torch.tensor([0.2, 0.2, 0.1, 0.9])
    pairs = [(i, j) for i, j in itertools.permutations(range(4), 2) if target[i] < target[j]]
    expected = np.mean([math.log1p(math.exp(scores[i] - scores[j])) for i, j in pairs])
    assert len(pairs) == 5
    assert LOSSES["ranking"](scores, target).item() == pytest.approx(expected)
    assert LOSSES["ranking"](scores + 7, 2 * target).item() == pytest.approx(expected)  # order is all that counts
    assert LOSSES["ranking"](scores, torch.ones(4)).item() == 0
    squared = np.mean(
        [(1 / (1 + math.exp(-s)) - t) ** 2 for s, t in zip(scores.tolist(), target.tolist(), strict=True)]
    )
    assert LOSSES["mse"](scores, target).item() == pytest.approx(squared)


def test_a_fit_repeats_with_its_seed_and_leaves_the_global_generator_alone(shuffled):
    labelled, outputs, _ = shuffled
    before = torch.get_rng_state()
    first, again, other = (fit_pseudo_margin(labelled, seed=s, epochs=3, width=8, depth=1) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert torch.equal(first(outputs), again(outputs))
    assert not torch.equal(first(outputs), other(outputs))


def test_which_images_are_learned_from_depends_on_the_seed_alone_not_on_the_network_that_is_built(shuffled):
    labelled, _, _ = shuffled
    small, large = (fit_pseudo_margin(labelled, n=50, width=w, depth=d, epochs=1) for w, d in ((4, 1), (64, 4)))
    assert torch.equal(small.centre, large.centre)  # the mean over the images learned from
    assert not torch.equal(small.centre, fit_pseudo_margin(labelled, n=50, seed=1, epochs=1).centre)


def test_fewer_images_are_the_first_of_more_and_the_rest_are_never_read(shuffled):
    labelled, outputs, _ = shuffled
    chosen = torch.randperm(len(labelled), generator=torch.Generator().manual_seed(0))[:40]
    poisoned = labelled.margins.clone()
    mask = torch.ones(len(labelled), dtype=torch.bool)
    mask[chosen] = False
    poisoned[mask] = 1e6
    options = {"n": 40, "epochs": 5, "width": 8, "depth": 1}
    clean, same = (
        fit_pseudo_margin(labelled, **options),
        fit_pseudo_margin(replace(labelled, margins=poisoned), **options),
    )
    assert torch.equal(clean(outputs), same(outputs))
    assert clean.n_fit == 40
    kept = labelled.outputs.features[chosen[round(HELD_OUT * 40) :]]
    assert_close(clean.centre, kept.mean(dim=0))


def test_the_weights_kept_are_those_with_the_least_held_out_loss(shuffled):
    labelled, _, _ = shuffled
    noise = labelled.margins[torch.randperm(len(labelled), generator=torch.Generator().manual_seed(5))]
    unlearnable = replace(labelled, margins=noise)  # what is learned from so few images only does harm elsewhere
    options = {"n": 30, "width": 64, "depth": 2, "patience": 500}
    long = fit_pseudo_margin(unlearnable, epochs=200, **options)
    assert long.epochs < 200
    assert all(
        long.held_out_loss <= fit_pseudo_margin(unlearnable, epochs=n, **options).held_out_loss for n in (1, 5, 50)
    )
    stopped = fit_pseudo_margin(unlearnable, epochs=long.epochs, **options)
    for name, weight in long.network.state_dict().items():
        assert torch.equal(weight, stopped.network.state_dict()[name])


def test_a_feature_that_never_moves_does_no_harm(shuffled):
    labelled, outputs, _ = shuffled
    dead = torch.zeros(len(labelled), 1)
    with_dead = Outputs(logits=labelled.outputs.logits, features=torch.cat([labelled.outputs.features, dead], dim=1))
    fitted = fit_pseudo_margin(replace(labelled, outputs=with_dead), epochs=2, width=8, depth=1)
    alive = torch.cat([outputs.features, torch.ones(len(outputs.features), 1)], dim=1)
    assert fitted(Outputs(logits=outputs.logits, features=alive)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"inputs": "pixels"}, UnknownNameError, "Unknown input of a pseudo-margin 'pixels'"),
        ({"target": "log"}, UnknownNameError, "Unknown target of a pseudo-margin 'log'"),
        ({"loss": "hinge"}, UnknownNameError, "Unknown loss of a pseudo-margin 'hinge'"),
        ({"n": 798}, UsageError, "Expected at most the 797 labelled margins that there are, got n=798."),
        ({"n": -5}, UsageError, "a depth and n of 0 or more, got 128, 300, 40, 3 and -5."),
        ({"epochs": 0}, UsageError, "Expected a width, epochs and a patience of 1 or more"),
        ({"width": 0}, UsageError, "1 or more and a depth and n of 0 or more, got 0, 300, 40, 3 and None."),
        ({"patience": 0}, UsageError, "got 128, 300, 0, 3 and None."),
        ({"depth": -1}, UsageError, "got 128, 300, 40, -1 and None."),
        ({"n": 9}, DegenerateError, "it needs 10 labelled margins or more, got 9"),
    ],
)
def test_what_cannot_be_learned_is_refused(shuffled, options, error, text):
    with pytest.raises(error) as caught:
        fit_pseudo_margin(shuffled[0], **options)
    assert text in str(caught.value)


def test_a_ranking_loss_that_no_held_out_pair_can_judge_is_refused(shuffled):
    labelled, _, _ = shuffled
    drawn = torch.randperm(len(labelled), generator=torch.Generator().manual_seed(0))[:20]
    margins = torch.full_like(labelled.margins, 0.1)
    margins[drawn[-2:]] = 0.2  # the first fifth is held out
    alike, options = replace(labelled, margins=margins), {"n": 20, "epochs": 2}
    with pytest.raises(DegenerateError, match="the margins of all 4 held-out images are alike"):
        fit_pseudo_margin(alike, loss="ranking", **options)
    assert fit_pseudo_margin(alike, **options).held_out_loss > 0  # another loss can


def test_a_pseudo_margin_of_another_network_is_refused(shuffled):
    labelled, outputs, _ = shuffled
    fitted = fit_pseudo_margin(labelled, epochs=1)
    wider = replace(outputs, features=outputs.features.repeat(1, 2))
    with pytest.raises(ShapeError) as caught:
        fitted(wider)
    told = (
        "Expected the features to be those of the network that the pseudo-margin was fitted to, (n, 2), got (800, 4)."
    )
    assert str(caught.value) == told


def test_a_network_without_features_and_margins_all_alike_are_refused(shuffled):
    labelled, outputs, _ = shuffled
    headless = Outputs(logits=outputs.logits, features=None)
    with pytest.raises(NoHeadError, match="Expected a network that ends in a linear layer"):
        fit_pseudo_margin(replace(labelled, outputs=headless))
    with pytest.raises(DegenerateError, match=r"all 797 labelled margins are 0\.5"):
        fit_pseudo_margin(replace(labelled, margins=torch.full_like(labelled.margins, 0.5)))
