"""Scores of a network and what they cost, against the functions they call and the passes these state."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from margincons.certificates import lower_bounds
from margincons.classifier import Classifier
from margincons.costly_scores import neighbour_distance
from margincons.data import load_images
from margincons.errors import LeakageError
from margincons.scores import SCORES, all_scores, doctor, first_order_margin, robustness_sign
from margincons.studies.score_jobs import CERTIFIED, SCORED, Settings, learn_from, score_images
from margincons.zoo import load_model

FEW = Settings(votes=20, clever_batches=2, clever_samples=3)


@pytest.fixture(scope="module")
def scored():
    """Forty images of the small bundled network by every score."""
    model, images = load_model("digits/mlp"), load_images("digits", n=40)
    known = learn_from(model, load_images("digits", split="train", n=60), FEW)
    return model, images, known, *score_images(model, images, known, FEW)


def test_every_score_has_a_declared_sign_and_a_column_without_a_gap(scored):
    *_, table, costs = scored
    assert list(table.columns) == ["index", "label", "predicted", *SCORED]
    assert list(costs) == list(SCORED)
    assert not table.isna().any().any()
    assert all(robustness_sign(name) in (-1, 1) for name in SCORED)


def test_columns_are_what_the_functions_say_of_all_images_at_once(scored):
    model, images, known, table, _ = scored
    classifier = Classifier(model, images.inputs[:2])
    outputs = classifier(images.inputs)
    expected = all_scores(outputs, classifier.head, norm="Linf") | {
        "doctor": doctor(outputs.logits),
        "neighbour_distance": neighbour_distance(outputs.features, known.features, k=5),
        "first_order_margin": first_order_margin(model, images.inputs, norm="Linf"),
        "interval_radius": lower_bounds(model, images.inputs, method="interval", tolerance=0.01),
        "pseudo_margin": known.pseudo_margin(outputs),
    }
    for name, values in expected.items():
        assert_close(torch.tensor(table[name].to_numpy()), values, rtol=1e-4, atol=1e-6, check_dtype=False)


def test_an_image_costs_what_its_score_states(scored):
    *_, costs = scored
    for name in (*SCORES, "doctor", "neighbour_distance", "pseudo_margin", *CERTIFIED):
        assert (costs[name]["forward"], costs[name]["backward"]) == (1, 0), name
    exact = {"gradient_norm": (1, 1), "first_order_runner_up": (1, 1), "first_order_margin": (1, 9)}
    exact |= {"smoothing_radius": (21, 0), "clever": (7, 54)}
    for name, passes in exact.items():
        assert (costs[name]["forward"], costs[name]["backward"]) == passes, name
    assert costs["fast_attack"]["backward"] > 3
    assert {name for name, cost in costs.items() if "once" in cost} == {"neighbour_distance", "pseudo_margin"}
    assert costs["neighbour_distance"]["once"] == {"forward": 60, "backward": 0}
    assert costs["pseudo_margin"]["once"]["backward"] > 60


def test_bounds_hold_on_every_image_in_the_order_that_theory_demands(scored):
    *_, table, _ = scored
    assert (table["interval_radius"] <= table["fast_attack"]).all()
    assert (table["crown_radius"] <= table["fast_attack"]).all()
    assert (table["crown_radius"] >= table["interval_radius"] * 0.98).all()  # both to a relative width of 0.01
    assert (table["first_order_margin"] <= table["first_order_runner_up"]).all()
    assert (table["clever"] <= 0.3).all()


def test_some_rows_have_the_scores_they_have_among_all(scored):
    model, images, known, table, _ = scored
    names = ("logit_margin", "smoothing_radius", "clever")
    part, _ = score_images(model, images, known, FEW, rows=[3, 17], names=names)
    assert part["index"].tolist() == [3, 17]
    for name in names:
        np.testing.assert_allclose(part[name], table[name].iloc[[3, 17]], rtol=1e-3, atol=1e-6)


def test_a_network_that_cannot_be_bounded_lacks_the_certificates_and_nothing_else():
    model, images = load_model("digits/rescaled"), load_images("digits", n=6)
    known = learn_from(model, load_images("digits", split="train", n=30), FEW)
    table, costs = score_images(model, images, known, FEW)
    assert set(SCORED) - set(table.columns) == set(SCORED) - set(costs) == set(CERTIFIED)


def test_a_network_without_a_head_lacks_what_reads_features_or_the_head_and_nothing_else():
    model = nn.Sequential(load_model("digits/mlp"), nn.Softplus())  # its logits are no linear layer's
    known = learn_from(model, load_images("digits", split="train", n=30), FEW)
    table, costs = score_images(model, load_images("digits", n=6), known, FEW)
    missing = {"feature_margin", "neighbour_distance", *CERTIFIED}
    assert set(SCORED) - set(table.columns) == set(SCORED) - set(costs) == missing


def test_nothing_is_learned_from_images_that_scores_are_judged_on():
    with pytest.raises(LeakageError, match="got those of digits/test"):
        learn_from(load_model("digits/mlp"), load_images("digits", n=20), FEW)
