"""Neural collapse against its closed form, against numpy, and against what cannot change it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

from margincons.classifier import Classifier, Head
from margincons.data import load_images
from margincons.errors import DegenerateError, ShapeError
from margincons.studies.neural_collapse import class_means, neural_collapse
from margincons.zoo import load_model

MEASURES = ("variability", "unequal_norms", "unequal_angles", "duality", "disagreement")


def simplex(classes, dimension, seed=0):
    """Vertices (k, d) of a regular simplex round 0, turned at random."""
    frame = np.eye(classes) - 1 / classes
    basis = ortho_group.rvs(dimension, random_state=seed)[:classes]
    return torch.from_numpy(frame @ basis)


def collapsed(classes, dimension, *, scale=3.0, seed=0):
    """Features that sit on their class means, with images of 1, 2, .. k, and the head that they tend to."""
    vertices = simplex(classes, dimension, seed)
    labels = torch.repeat_interleave(torch.arange(classes), torch.arange(1, classes + 1))
    shift = torch.linspace(-1, 1, dimension, dtype=torch.float64)
    head = Head(weight=scale * vertices, bias=-scale * vertices @ shift)
    return vertices[labels] + shift, labels, head


def spread(n=120, classes=4, dimension=7, seed=0):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    features = torch.randn(n, dimension, generator=draw) + 2 * torch.eye(classes, dimension)[labels]
    head = Head(weight=torch.randn(classes, dimension, generator=draw), bias=torch.randn(classes, generator=draw))
    return features, labels, head


@settings(deadline=None)
@given(classes=st.integers(2, 10), extra=st.integers(0, 20), scale=st.floats(0.01, 100), seed=st.integers(0, 99))
def test_a_simplex_with_the_head_that_points_at_it_is_wholly_collapsed(classes, extra, scale, seed):
    found = neural_collapse(*collapsed(classes, classes + extra, scale=scale, seed=seed))
    for measure in MEASURES:
        assert getattr(found, measure) == pytest.approx(0, abs=1e-9), measure


def test_each_departure_from_the_simplex_moves_its_own_measure():
    features, labels, head = collapsed(5, 8)
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise -= class_means(noise, labels, 5)[labels]
    assert neural_collapse(features + 0.1 * noise, labels, head).variability > 0.01
    longer = features + (labels == 0)[:, None] * (features - features.mean(dim=0))
    assert neural_collapse(longer, labels, head).unequal_norms > 0.1
    nearer = features + 0.5 * (labels == 0)[:, None] * (features[labels == 1][0] - features)
    assert neural_collapse(nearer, labels, head).unequal_angles > 0.05
    turned = Head(weight=head.weight.roll(1, dims=0), bias=head.bias)
    found = neural_collapse(features, labels, turned)
    assert found.duality > 1
    assert found.disagreement > 0.9
    assert found.variability == pytest.approx(0, abs=1e-12)  # which knows nothing of the head


def test_spread_features_and_a_random_head_are_not_collapsed():
    found = neural_collapse(*spread())
    assert found.variability > 0.1
    assert found.unequal_norms > 0.01
    assert found.unequal_angles > 0.01
    assert found.duality > 0.5
    assert found.disagreement > 0.1


@settings(deadline=None)
@given(seed=st.integers(0, 50), rows=st.integers(30, 90))
def test_the_measures_are_numpys_class_by_class(seed, rows):
    features, labels, head = spread(rows, seed=seed)
    h, y, w, b = (part.numpy().astype(float) for part in (features, labels, head.weight, head.bias))
    y, k = y.astype(int), 4
    means = np.array([h[y == c].mean(axis=0) for c in range(k)])
    centred = means - means.mean(axis=0)
    within = np.mean([np.cov(h[y == c].T, bias=True) for c in range(k)], axis=0)
    between = np.cov(means.T, bias=True)
    found = neural_collapse(features, labels, head)
    assert found.variability == pytest.approx(np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / k, rel=1e-6)
    lengths = np.sqrt((centred**2).sum(axis=1))
    assert found.unequal_norms == pytest.approx(lengths.std() / lengths.mean())
    cosines = [centred[i] @ centred[j] / lengths[i] / lengths[j] for i in range(k) for j in range(k) if i != j]
    assert found.unequal_angles == pytest.approx(np.abs(np.array(cosines) + 1 / 3).mean())
    unit = w / np.sqrt((w**2).sum()) - centred / np.sqrt((centred**2).sum())
    assert found.duality == pytest.approx((unit**2).sum())
    nearest = ((h[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
    assert found.disagreement == pytest.approx(((h @ w.T + b).argmax(axis=1) != nearest).mean())


def test_turning_shifting_and_scaling_the_features_changes_no_measure_but_of_the_decision():
    features, labels, head = (spread()[0].double(), *spread()[1:])
    turn = torch.from_numpy(ortho_group.rvs(7, random_state=1))
    moved = 3 * features @ turn + 5
    weight = head.weight.double() @ turn / 3
    same = Head(weight=weight, bias=head.bias.double() - 5 * weight.sum(dim=1))
    before, after = neural_collapse(features, labels, head), neural_collapse(moved, labels, same)
    for measure in MEASURES:
        assert getattr(after, measure) == pytest.approx(getattr(before, measure), rel=1e-5), measure


def test_a_class_weighs_the_same_however_many_images_it_has():
    features, labels, head = spread()
    doubled = torch.cat([features, features[labels == 0]]), torch.cat([labels, labels[labels == 0]])
    before, after = neural_collapse(features, labels, head), neural_collapse(*doubled, head)
    assert after.variability == pytest.approx(before.variability)
    assert after.unequal_angles == pytest.approx(before.unequal_angles)


def test_a_trained_network_decides_by_its_nearest_class_mean_more_than_an_untrained_one():
    images = load_images("digits", split="train")
    classifier = Classifier(load_model("digits/standard"), images.inputs[:2])
    features = classifier.features(images.inputs)
    trained = neural_collapse(features, images.labels, classifier.head)
    other = Head(weight=torch.randn_like(classifier.head.weight), bias=0 * classifier.head.bias)
    assert trained.disagreement < 0.1 < neural_collapse(features, images.labels, other).disagreement


def test_what_does_not_belong_together_is_refused():
    features, labels, head = spread()
    with pytest.raises(ShapeError, match=r"Expected features to be \(n, 7\), as the head takes them, got \(120, 6\)"):
        neural_collapse(features[:, :6], labels, head)
    with pytest.raises(ShapeError, match=r"Expected labels to be \(120,\)"):
        neural_collapse(features, labels[:-1], head)
    with pytest.raises(DegenerateError, match="1 of 4 classes have no image"):
        neural_collapse(features, labels.clamp(max=2), head)
    with pytest.raises(DegenerateError, match="labels go beyond them"):
        neural_collapse(features, labels + 1, head)
    with pytest.raises(DegenerateError, match="all class means are the same"):
        neural_collapse(torch.ones(8, 7), torch.arange(8) % 4, head)
