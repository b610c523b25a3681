"""The detect command's parts: names, order, and pictures that are decoded as they would be from a data set."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from margincons import Detector, load_images, load_model
from margincons.detector.folders import NamedImages, contact_sheet, detect, open_images, write_results
from margincons.errors import FileFormatError, MissingFileError, UnknownNameError
from margincons.records import read_record


@pytest.fixture(scope="module")
def detector():
    margins = read_record("digits/trades/Linf/minimum_norm")["upper"].to_numpy()
    images = load_images("digits").inputs
    return Detector.calibrate(
        load_model("digits/trades"), images, margins=margins, epsilon=0.1, false_alarm_rate=0.1, score="entropy"
    )


@pytest.fixture
def photographs(tmp_path):
    """Twelve digits as grey PNG files, some in a subfolder; a text beside them."""
    inputs = load_images("digits", n=12).inputs
    for row, image in enumerate(inputs):
        path = tmp_path / "photographs" / ("more" if row % 3 == 0 else ".") / f"{row:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * image[0].numpy()).round().astype(np.uint8)).save(path)
    (tmp_path / "photographs" / "notes.txt").write_text("no picture")
    return tmp_path / "photographs"


def test_a_folder_is_read_by_file_in_the_order_of_paths(detector, photographs):
    images = open_images(str(photographs), detector)
    plain = [f"{row:02d}.png" for row in range(12) if row % 3]
    assert images.names == [*plain, *(f"more/{row:02d}.png" for row in range(0, 12, 3))]
    stored = load_images("digits", n=12).inputs
    for name, image in zip(images.names, images.inputs[:12], strict=True):
        assert torch.allclose(image, stored[int(name[-6:-4])], atol=0.5 / 255)
    assert len(open_images(str(photographs), detector, limit=5).names) == 5


def test_every_image_gets_a_row_the_most_brittle_first(detector):
    images = open_images("digits", detector)
    table = detect(detector, images)
    assert list(table.columns) == ["image", "predicted", "entropy", "decision"]
    assert sorted(table["image"].astype(int)) == list(range(800))
    assert table["entropy"].is_monotonic_decreasing  # high where brittle
    found = detector.decide(load_images("digits").inputs)
    again = table.sort_index()
    assert again["decision"].tolist() == found.names
    assert again["predicted"].tolist() == found.predicted.tolist()


@pytest.mark.parametrize("score", ["logit_margin", "entropy"])
def test_images_that_nothing_vouches_for_head_the_table_and_no_images_make_an_empty_one(score):
    class Blind(nn.Module):
        """Logits are NaN on black images."""

        def forward(self, inputs):
            mean = inputs.flatten(1).mean(dim=1, keepdim=True)
            return torch.cat([4 * mean, 4 - 4 * mean], dim=1).where(mean > 0, torch.nan)

    means = torch.linspace(0.1, 0.9, 50)
    known, new = (one.view(-1, 1, 1, 1).expand(-1, 1, 2, 2) for one in (means, torch.tensor([0.5, 0.9, 0.0])))
    made = Detector.calibrate(Blind(), known, margins=(means - 0.5).abs(), epsilon=0.2, score=score)
    table = detect(made, NamedImages(inputs=new, names=["edge", "far", "black"]))
    assert table["image"].tolist() == ["black", "edge", "far"]
    assert table["decision"].tolist() == ["brittle", "brittle", "robust"]
    assert table[score].isna().tolist() == [True, False, False]
    empty = detect(made, NamedImages(inputs=new[:0], names=[]))
    assert (len(empty), list(empty.columns)) == (0, list(table.columns))


def test_the_sheet_shows_the_worst_with_name_class_score_and_decision(detector, photographs):
    images = open_images(str(photographs), detector)
    table = detect(detector, images)
    figure = contact_sheet(table.head(7), images)
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 7
    for axes, row in zip(shown, table.itertuples(), strict=False):
        title = axes.get_title() or axes.get_title(loc="left")
        assert title == f"{row.image}\nclass {row.predicted}, {row.entropy:.3g}\n{row.decision}"
        pixels = images.inputs[np.array([row.Index])][0, 0].numpy()
        assert np.array_equal(axes.images[0].get_array(), pixels)
        assert axes.images[0].get_cmap().name == "gray"  # bright pixels are bright


def test_results_are_a_table_and_a_picture(detector, photographs, tmp_path):
    images = open_images(str(photographs), detector)
    table = detect(detector, images)
    csv, sheet = write_results(tmp_path / "new" / "out", table, images, worst=100)
    read = pd.read_csv(csv)
    assert read["image"].tolist() == table["image"].tolist()
    assert np.allclose(read["entropy"], table["entropy"], rtol=1e-6)
    with Image.open(sheet) as picture:
        assert picture.size[0] > 800
    assert sorted(path.name for path in csv.parent.iterdir()) == ["detected.csv", "most_brittle.png"]


def test_a_name_that_would_be_a_broken_formula_is_a_name(detector, photographs, tmp_path):
    (photographs / "01.png").rename(photographs / "c^_$x^^$.png")
    images = open_images(str(photographs), detector)
    _, sheet = write_results(tmp_path / "out", detect(detector, images), images)
    with Image.open(sheet) as picture:
        assert picture.size[0] > 800


@pytest.mark.parametrize("n", [1, 2, 6])
def test_few_images_make_a_sheet_too(detector, n):
    images = open_images("digits", detector, limit=n)
    assert len(contact_sheet(detect(detector, images), images).axes) >= n


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        ("nowhere/at/all", MissingFileError, "Expected a folder of images at nowhere/at/all, found none"),
        ("digit", UnknownNameError, "Unknown dataset 'digit'"),
        ("empty", FileFormatError, "Expected empty to hold pictures (.jpg, .jpeg, .png"),
        ("broken", FileFormatError, "Expected broken/a.png to hold an image, got cannot identify image file"),
    ],
)
def test_what_holds_no_images_is_named(detector, tmp_path, monkeypatch, data, error, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"nothing")
    with pytest.raises(error) as caught:
        open_images(data, detector)
    assert text in str(caught.value)
