"""Margins of test images cannot be learned from, whichever way they come in."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from margincons.classifier import Classifier
from margincons.data import load_images
from margincons.errors import LeakageError, MissingColumnError, RecordError
from margincons.labelled_margins import SPLITS, LabelledMargins, labelled_margins
from margincons.measure import measure
from margincons.pseudo_margin import fit_pseudo_margin
from margincons.records import read_record
from margincons.zoo import load_model

NAME = "digits/trades/Linf/minimum_norm"


@pytest.fixture(scope="module")
def classifier():
    return Classifier(load_model("digits/trades"), load_images("digits", n=2).inputs)


@pytest.mark.parametrize("split", SPLITS)
def test_the_rows_are_the_records_own_images_and_margins(classifier, split):
    table = read_record(f"{NAME}-{split}")
    found, images = labelled_margins(classifier, table), load_images("digits", split=split)
    assert (len(found), found.left_out, found.data) == (len(images), 0, f"digits/{split}")
    assert_close(found.margins, torch.tensor(table["upper"].to_numpy(), dtype=torch.float32))
    assert_close(found.outputs.logits, classifier.logits(images.inputs), rtol=1e-4, atol=1e-4)
    assert found.outputs.predicted.tolist() == table["predicted"].tolist()


def test_the_splits_to_learn_from_share_no_image_with_the_test_split():
    test = {image.numpy().tobytes() for image in load_images("digits").inputs}
    assert "test" not in SPLITS
    for split in SPLITS:
        assert not any(image.numpy().tobytes() in test for image in load_images("digits", split=split).inputs)


def test_a_record_of_test_images_is_refused_and_so_is_one_that_forgot_its_images(classifier):
    table = read_record(NAME)
    with pytest.raises(LeakageError) as caught:
        labelled_margins(classifier, table)
    assert str(caught.value) == (
        "Expected margins of training or calibration images to learn from, got those of digits/test; "
        'measure a record with split="train".'
    )
    table.attrs = {}
    with pytest.raises(LeakageError, match="got those of images that the table does not name"):
        labelled_margins(classifier, table)


def test_test_images_cannot_pass_under_the_name_of_training_images(classifier):
    table = read_record(NAME)
    table.attrs["settings"] = table.attrs["settings"] | {"data": "digits/train", "images": None}
    with pytest.raises(RecordError, match="those of digits/train changed"):
        labelled_margins(classifier, table)


def test_fitting_takes_labelled_margins_alone_and_these_cannot_be_made_of_test_images(classifier):
    good = labelled_margins(classifier, read_record(f"{NAME}-calibration"))
    for data in ("digits/test", "digits", "", "cifar10/test", "test"):
        with pytest.raises(LeakageError):
            replace(good, data=data)
        with pytest.raises(LeakageError):
            LabelledMargins(**{field.name: getattr(good, field.name) for field in fields(good)} | {"data": data})
    with pytest.raises(AttributeError):
        good.data = "digits/test"
    with pytest.raises(AttributeError):  # a plain table, whatever its name, has no such fields
        fit_pseudo_margin(read_record(f"{NAME}-calibration"))


def test_the_margins_of_another_network_are_refused(classifier):
    other = Classifier(load_model("digits/pgd_at"), load_images("digits", n=2).inputs)
    with pytest.raises(
        RecordError, match="the network whose margins the record holds, digits/trades; got other weights"
    ):
        labelled_margins(other, read_record(f"{NAME}-train"))
    with pytest.raises(MissingColumnError, match="Expected a column 'lower'"):
        labelled_margins(classifier, read_record(f"{NAME}-train"), margin="lower")


def test_images_without_a_margin_are_left_out_and_counted(classifier):
    table = read_record(f"{NAME}-train")
    whole = labelled_margins(classifier, table)
    table.loc[3, "upper"] = np.inf
    found = labelled_margins(classifier, table)
    assert (len(found), found.left_out) == (796, 1)
    assert_close(found.margins, torch.cat([whole.margins[:3], whole.margins[4:]]))
    assert_close(found.outputs.logits[3], whole.outputs.logits[4], rtol=1e-4, atol=1e-4)


def test_the_first_rows_of_a_record_and_a_record_of_the_first_images_both_serve(classifier, tmp_path):
    head = labelled_margins(classifier, read_record(f"{NAME}-train").head(12))
    options = {"split": "train", "limit": 12, "out": tmp_path, "effort": "fast", "progress": False}
    measured = labelled_margins(classifier, measure("digits/trades", "digits", **options))
    assert len(head) == len(measured) == 12
    assert_close(head.outputs.logits, measured.outputs.logits)
