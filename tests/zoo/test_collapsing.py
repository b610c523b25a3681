"""Pressing features together: the ratio against numpy, and what training under it does."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from margincons.classifier import Classifier
from margincons.data import load_images
from margincons.studies.neural_collapse import neural_collapse
from margincons.zoo import load_model
from margincons.zoo.collapsing import collapsing, spread_ratio
from margincons.zoo.recipes import RECIPES, standard, train_recipe


def test_the_ratio_is_numpys_and_knows_no_scale_and_no_absent_class():
    draw = torch.Generator().manual_seed(0)
    features, labels = torch.randn(40, 6, generator=draw), 3 * torch.randint(0, 4, (40,), generator=draw)
    h, y = features.numpy(), labels.numpy()
    means = {c: h[y == c].mean(axis=0) for c in set(y.tolist())}
    within = np.mean([((row - means[c]) ** 2).sum() for row, c in zip(h, y.tolist(), strict=True)])
    between = np.array(list(means.values()))
    expected = within / ((between - between.mean(axis=0)) ** 2).sum(axis=1).mean()
    assert spread_ratio(features, labels).item() == pytest.approx(expected, rel=1e-5)
    assert_close(spread_ratio(7 * features + 2, labels), spread_ratio(features, labels), rtol=1e-4, atol=1e-5)
    one_per_class = torch.randn(4, 6, generator=draw)[labels // 3]
    assert spread_ratio(one_per_class, labels).item() == pytest.approx(0, abs=1e-9)


def test_a_strength_of_0_is_the_loss_itself_and_any_other_adds_the_ratio():
    model, images = load_model("digits/standard"), load_images("digits", split="calibration", n=40)
    batch = (model, images.inputs, images.labels, 0.1)
    assert torch.equal(collapsing(standard, 0)(*batch), standard(*batch))
    ratio = spread_ratio(model[:-1](images.inputs), images.labels)
    assert_close(collapsing(standard, 2.5)(*batch), standard(*batch) + 2.5 * ratio)


def test_training_under_it_collapses_features_and_still_learns():
    images, found = load_images("digits", split="train"), {}
    for strength in (0, 10):
        recipe = replace(RECIPES["digits/standard"], loss=collapsing(standard, strength), epochs=20)
        classifier = Classifier(train_recipe(recipe), images.inputs[:2])
        outputs = classifier(images.inputs)
        assert (outputs.predicted == images.labels).float().mean() > 0.95
        found[strength] = neural_collapse(outputs.features, images.labels, classifier.head).variability
    assert found[10] < 0.6 * found[0]
