"""Warnings that margincons gives: one line each, whole after a journey between processes."""

import pickle

import pytest

from margincons import cautions
from margincons.cautions import Caution, NoHeadWarning, ProbabilitiesWarning, plain

KINDS = [kind for kind in vars(cautions).values() if isinstance(kind, type) and issubclass(kind, Caution)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_caution_says_in_one_line_what_was_seen_and_what_it_means(kind):
    caution = kind("Seven of nine")
    assert str(caution).rstrip(".") == f"Seven of nine; {kind.advice}"
    assert str(caution)[-2:] != "?." and str(caution)[-1] in "?."
    assert "\n" not in str(caution)
    assert kind is Caution or kind.advice != Caution.advice
    back = pickle.loads(pickle.dumps(caution))
    assert (type(back), str(back)) == (kind, str(caution))


def test_a_record_keeps_each_name_once_in_the_order_of_appearance():
    found = [NoHeadWarning("a"), ProbabilitiesWarning("b"), NoHeadWarning("c")]
    assert plain(found) == [
        {"name": "NoHeadWarning", "text": str(found[0])},
        {"name": "ProbabilitiesWarning", "text": str(found[1])},
    ]
    assert plain([]) == []
