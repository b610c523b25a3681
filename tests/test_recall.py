"""A network that remembers what it just said: the same answers, fewer passes."""

import torch
from torch.testing import assert_close

from margincons.attacks.minimum_norm import search
from margincons.classifier import Classifier
from margincons.data import load_images
from margincons.passes import CountPasses
from margincons.recall import Recalling
from margincons.rows import measure_batch
from margincons.zoo import load_model

SETTINGS = {"norm": "Linf", "attack": "minimum_norm", "effort": "fast", "seed": 0, "epsilon": None}


def recalling(n=6):
    """A network that recalls, over one that counts, and its clean batch."""
    images = load_images("digits", n=n).inputs
    counted = CountPasses(load_model("digits/mlp"))
    classifier = Classifier(counted, images)
    outputs = classifier(images)
    counted.forward_images = 0
    return Recalling(classifier, images, outputs), counted, images


@torch.no_grad()
def test_the_same_batch_is_passed_once_and_any_other_anew():
    model, counted, images = recalling()
    moved = (images + 0.1).clamp(max=1)
    for _ in range(2):
        assert_close(model(images), counted.model(images), rtol=0, atol=0)
        for batch in (moved, moved.flip(0), moved[:2]):
            assert_close(model.recalled(batch), counted.model(batch), rtol=0, atol=0)
    assert counted.forward_images == 6 + 6 + 2
    model(moved)  # a search passes what it asks for
    assert counted.forward_images == 6 + 6 + 2 + 6


@torch.no_grad()
def test_a_batch_that_was_changed_in_place_is_another_batch():
    model, counted, images = recalling()
    moved = images.clone()
    model.recalled(moved)
    moved[0] = 1
    assert_close(model.recalled(moved), counted.model(moved), rtol=0, atol=0)


def test_gradients_are_never_recalled():
    model, counted, images = recalling()
    points = images.clone().requires_grad_()
    expected = torch.autograd.grad(counted.model(points).sum(), points)[0]
    for _ in range(2):
        assert_close(torch.autograd.grad(model(points).sum(), points)[0], expected, rtol=0, atol=0)
    assert counted.forward_images == counted.backward_images == 12


def test_the_head_is_found_through_it_even_in_a_batch_of_one_image():
    model, _, images = recalling(n=1)
    assert Classifier(model, images[:1]).head is not None


def test_checks_scores_and_features_of_a_measurement_take_two_passes_beyond_the_bare_attack():
    counted, images, rows = CountPasses(load_model("digits/trades")), load_images("digits", n=40), torch.arange(40)
    classifier = Classifier(counted, images.inputs[:2])
    counted.forward_images = 0
    table = measure_batch(classifier, images, rows, SETTINGS).table
    measured, counted.forward_images = counted.forward_images, 0
    search(counted, images.inputs, torch.tensor(table["predicted"].to_numpy()), effort="fast", indices=rows)
    assert table["success"].all()
    assert measured - counted.forward_images == 2 * len(rows)


def test_a_measurement_is_what_it_is_without_recalling(monkeypatch):
    classifier, images = Classifier(load_model("digits/mlp"), load_images("digits", n=2).inputs), load_images("digits")
    rows = torch.tensor([5, 3, 9, 700, 20])
    recalled = measure_batch(classifier, images, rows, SETTINGS)
    for name in ("forward", "recalled"):
        monkeypatch.setattr(Recalling, name, lambda self, inputs: self.model(inputs))
    monkeypatch.setattr(Recalling, "outputs", lambda self, inputs: self._classifier(inputs, batch_size=len(inputs)))
    fresh = measure_batch(classifier, images, rows, SETTINGS)
    assert recalled.table.equals(fresh.table)
    assert torch.equal(recalled.adversarial, fresh.adversarial)
