"""A strictly increasing map of the logits: decisions and margins stay, logit margins do not."""

import pytest
import torch
from torch.testing import assert_close

from margincons.attacks.result import leads_clearly
from margincons.data import load_images
from margincons.margins import input_margins
from margincons.scores import logit_margin
from margincons.zoo import load_model
from margincons.zoo.squashed import Squashed


@pytest.mark.parametrize("strength", [0.1, 0.3])
def test_gentle_squashing_changes_every_logit_margin_and_no_decision(strength):
    network, inputs = load_model("digits/trades"), load_images("digits").inputs
    squashed = Squashed(network, strength)
    assert_close(squashed(inputs).argmax(dim=1), network(inputs).argmax(dim=1))
    gaps, plain = logit_margin(squashed(inputs)), logit_margin(network(inputs))
    assert (gaps < strength * plain).all()  # tanh is a contraction
    order, other = plain.argsort(), gaps.argsort()
    assert not torch.equal(order, other)


def test_a_witness_for_the_squashed_network_is_one_for_the_plain_network():
    network, inputs = load_model("digits/trades"), load_images("digits", n=40).inputs
    found = input_margins(Squashed(network, 0.1), inputs)
    assert found.success.all()
    assert (network(found.adversarial).argmax(dim=1) != network(inputs).argmax(dim=1)).all()
    assert leads_clearly(network(found.adversarial), network(inputs).argmax(dim=1)).float().mean() > 0.9


def test_harsh_squashing_ties_in_single_precision():
    network, inputs = load_model("digits/standard"), load_images("digits").inputs
    logits = Squashed(network, 10.0)(inputs)
    assert (logit_margin(logits) == 0).any()
