import pytest
import torch

from margincons import Classifier, load_images, load_model
from margincons.classifier import Outputs
from margincons.detector.scorer import load_scorer, make_scorer
from margincons.errors import NoHeadError, UnknownNameError
from margincons.labelled_margins import labelled_margins
from margincons.pseudo_margin import fit_pseudo_margin
from margincons.records import read_record
from margincons.scores import SCORES, all_scores, feature_margin, robustness_sign


@pytest.fixture(scope="module")
def images():
    return load_images("digits", n=40).inputs


@pytest.fixture(scope="module")
def classifier(images):
    return Classifier(load_model("digits/trades"), images)


def fitted(classifier, inputs):
    table = read_record("digits/trades/Linf/minimum_norm-calibration")
    labelled = labelled_margins(classifier, table, load_images("digits", split="calibration"))
    return fit_pseudo_margin(labelled, inputs=inputs, epochs=3, depth=6)


@pytest.mark.parametrize("name", SCORES)
def test_a_scorer_gives_the_score_of_that_name_and_its_sign(classifier, images, name):
    scorer, outputs = make_scorer(name, classifier, norm="L2"), classifier(images)
    assert torch.equal(scorer(outputs), all_scores(outputs, classifier.head, norm="L2")[name])
    assert scorer.sign == robustness_sign(name)
    assert not scorer.needs_features  # so that a detector needs no hooks


def test_the_feature_margin_reads_the_head_once(classifier, images):
    outputs = classifier(images)
    for norm in ("Linf", "L2", "L1"):
        found = make_scorer("feature_margin", classifier, norm=norm)(Outputs(logits=outputs.logits, features=None))
        assert torch.equal(found, feature_margin(outputs.logits, classifier.head, norm=norm))


@pytest.mark.parametrize("inputs", ["features", "logits"])
def test_a_pseudo_margin_scores_as_the_fitted_object_does(classifier, images, inputs):
    score, outputs = fitted(classifier, inputs), classifier(images)
    scorer = make_scorer(score, classifier, norm="Linf")
    assert torch.equal(scorer(outputs), score(outputs))
    assert scorer.needs_features == (inputs == "features")


@pytest.mark.parametrize("name", [*SCORES, "features", "logits"])
def test_a_scorer_is_rebuilt_from_its_name_and_tensors(classifier, images, name):
    score = fitted(classifier, name) if name in ("features", "logits") else name  # seven layers: more than nine places
    scorer, outputs = make_scorer(score, classifier, norm="Linf"), classifier(images)
    inputs = "features" if scorer.needs_features else "logits"
    again = load_scorer(scorer.name, inputs, scorer.state_dict(), classifier)
    assert torch.equal(again(outputs), scorer(outputs))


def test_scores_that_need_a_head_say_so():
    headless = Classifier(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10), torch.nn.Tanh()), torch.rand(2, 1, 8, 8)
    )
    with pytest.raises(NoHeadError):
        make_scorer("feature_margin", headless, norm="Linf")
    assert make_scorer("logit_margin", headless, norm="Linf").sign == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [("margin", "Unknown score 'margin'; the nearest are: "), ("pseudo_margin", "(give the fitted object itself)")],
)
def test_a_score_that_is_not_known_is_named(classifier, name, text):
    with pytest.raises(UnknownNameError) as caught:
        make_scorer(name, classifier, norm="Linf")
    assert text in str(caught.value)
