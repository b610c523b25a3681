"""Margins of test images cannot be learned from, whichever way they come in."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from margincons.classifier import Classifier
from margincons.data import load_images
from margincons.errors import LeakageError, MissingColumnError, RecordError, UsageError
from margincons.labelled_margins import SPLITS, LabelledMargins, labelled_margins
from margincons.measure import measure
from margincons.pseudo_margin import fit_pseudo_margin
from margincons.records import read_record
from margincons.zoo import load_model

NAME = "digits/trades/Linf/minimum_norm"
TRAIN = load_images("digits", split="train")


@pytest.fixture(scope="module")
def classifier():
    return Classifier(load_model("digits/trades"), load_images("digits", n=2).inputs)


@pytest.mark.parametrize("split", SPLITS)
def test_the_rows_are_the_records_own_images_and_margins(classifier, split):
    table = read_record(f"{NAME}-{split}")
    images = load_images("digits", split=split)
    found = labelled_margins(classifier, table, images)
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
        labelled_margins(classifier, table, load_images("digits"))
    assert str(caught.value) == (
        "Expected margins of training or calibration images to learn from, got those of digits/test; "
        'measure a record with split="train", or of a file of your own named train.npz.'
    )
    table.attrs = {}
    with pytest.raises(LeakageError, match="got those of images that the table does not name"):
        labelled_margins(classifier, table, load_images("digits"))


def test_distances_within_a_budget_are_no_margins_to_learn_from(classifier, tmp_path):
    options = {"attack": "pgd", "epsilon": 0.05, "effort": "fast", "split": "train", "limit": 8, "progress": False}
    table = measure("digits/trades", "digits", out=tmp_path, **options)
    with pytest.raises(RecordError, match=r"got distances of pgd within a budget of 0.05; take the record of a min"):
        labelled_margins(classifier, table, TRAIN)


def test_test_images_cannot_pass_for_those_of_a_training_record(classifier):
    with pytest.raises(
        RecordError, match="Expected the images that the record was measured on, digits/train; got others"
    ):
        labelled_margins(classifier, read_record(f"{NAME}-train"), load_images("digits"))


def test_fitting_takes_labelled_margins_alone_and_these_cannot_be_made_of_test_images(classifier):
    good = labelled_margins(classifier, read_record(f"{NAME}-calibration"), load_images("digits", split="calibration"))
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
        labelled_margins(other, read_record(f"{NAME}-train"), TRAIN)
    with pytest.raises(MissingColumnError, match="Expected a column 'lower'"):
        labelled_margins(classifier, read_record(f"{NAME}-train"), TRAIN, margin="lower")


def test_images_without_a_margin_are_left_out_and_counted(classifier):
    table = read_record(f"{NAME}-train")
    whole = labelled_margins(classifier, table, TRAIN)
    table.loc[3, "upper"] = np.inf
    found = labelled_margins(classifier, table, TRAIN)
    assert (len(found), found.left_out) == (796, 1)
    assert_close(found.margins, torch.cat([whole.margins[:3], whole.margins[4:]]))
    assert_close(found.outputs.logits[3], whole.outputs.logits[4], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -0.1])
def test_what_is_no_margin_is_not_learned_from(classifier, wrong):
    found = labelled_margins(classifier, read_record(f"{NAME}-train").head(12), TRAIN)
    margins = found.margins.clone()
    margins[3] = wrong
    with pytest.raises(UsageError, match=r"finite margins of 0 or more to learn from, 1 of 12 are not\."):
        replace(found, margins=margins)


def test_the_first_rows_of_a_record_and_a_record_of_the_first_images_both_serve(classifier, tmp_path):
    head = labelled_margins(classifier, read_record(f"{NAME}-train").head(12), TRAIN)
    options = {"split": "train", "limit": 12, "out": tmp_path, "effort": "fast", "progress": False}
    measured = labelled_margins(classifier, measure("digits/trades", "digits", **options), TRAIN)
    assert len(head) == len(measured) == 12
    assert_close(head.outputs.logits, measured.outputs.logits)


def test_a_file_of_ones_own_says_by_its_name_that_it_may_be_learned_from(classifier, tmp_path):
    for name in ("train", "mine"):
        np.savez(tmp_path / f"{name}.npz", x=TRAIN.inputs[:12].numpy(), y=TRAIN.labels[:12].numpy())
    options = {"effort": "fast", "progress": False}
    paths = {name: str(tmp_path / f"{name}.npz") for name in ("train", "mine")}
    tables = {name: measure("digits/trades", path, out=tmp_path / name, **options) for name, path in paths.items()}
    assert len(labelled_margins(classifier, tables["train"], load_images(paths["train"]))) == 12
    with pytest.raises(LeakageError, match="got those of mine"):
        labelled_margins(classifier, tables["mine"], load_images(paths["mine"]))
