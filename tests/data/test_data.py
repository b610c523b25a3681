"""Every way in which images come in, and every way in which that fails."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.testing import assert_close

from margincons.data import DIGITS_SPLITS, Images, data_folder, load_images, load_unlabelled
from margincons.errors import (
    DownloadError,
    FileFormatError,
    MissingFileError,
    PixelRangeError,
    ShapeError,
    UnknownNameError,
    UsageError,
)
from margincons.records import read_record, shipped_records


def save_npz(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def save_image(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def rgb(n=4, height=5, width=6):
    return np.random.default_rng(0).integers(256, size=(n, height, width, 3), dtype=np.uint8)


def test_the_splits_of_digits_are_disjoint_and_together_all_of_scikit_learns_images():
    parts = {split: load_images("digits", split=split) for split in DIGITS_SPLITS}
    assert {split: len(images) for split, images in parts.items()} == DIGITS_SPLITS
    assert DIGITS_SPLITS["test"] >= 800
    rows = [
        row.tobytes() + bytes([label])
        for images in parts.values()
        for row, label in zip((16 * images.inputs).byte().numpy(), images.labels.tolist(), strict=True)
    ]
    stored = load_digits()
    expected = [
        image.astype(np.uint8).tobytes() + bytes([label])
        for image, label in zip(stored.images, stored.target, strict=True)
    ]
    assert sorted(rows) == sorted(expected)  # each image once: none is in two splits


def test_digits_are_divided_by_16_and_stay_exact():
    images = load_images("digits", split="calibration")
    assert images.inputs.shape == (200, 1, 8, 8)
    assert (images.inputs.dtype, images.labels.dtype) == (torch.float32, torch.int64)
    assert (images.inputs.min(), images.inputs.max()) == (0, 1)
    assert_close(16 * images.inputs, (16 * images.inputs).round(), rtol=0, atol=0)
    assert (images.name, images.decoding) == ("digits/calibration", "divided by 16")


def test_the_splits_are_those_that_the_shipped_records_were_measured_on():
    tables = [read_record(name) for name in shipped_records() if name.startswith("digits/")]
    settings = [(table.attrs["settings"], len(table)) for table in tables]
    recorded = {(about["data"].split("/")[1], images, about["data_sha256"]) for about, images in settings}
    assert {split for split, _, _ in recorded} == {"train", "calibration", "test"}
    for split, images, checksum in recorded:
        assert load_images("digits", split=split, n=images).checksum() == checksum, (split, images)


def test_the_first_images_are_taken_and_zero_means_all():
    everything = load_images("digits")
    for n, expected in ((3, 3), (0, 800), (None, 800), (5000, 800)):
        images = load_images("digits", n=n)
        assert len(images) == expected
        assert_close(images.inputs, everything.inputs[:expected])
        assert_close(images.labels, everything.labels[:expected])


def test_the_checksum_sees_every_pixel_and_every_label():
    images = load_images("digits", n=5)
    assert images.checksum() == load_images("digits", n=5).checksum()
    for field in ("inputs", "labels"):
        values = {"inputs": images.inputs.clone(), "labels": images.labels.clone()}
        values[field].view(-1)[-1] += 1
        changed = type(images)(**values, name=images.name, decoding=images.decoding)
        assert changed.checksum() != images.checksum()


def test_images_that_a_caller_changes_are_nobody_elses():
    first = load_images("digits", n=3)
    kept = first.checksum()
    first.inputs.fill_(0.5)
    first.labels.fill_(7)
    assert load_images("digits", n=3).checksum() == kept


def test_a_path_is_a_file_or_folder_of_ones_own_even_where_it_is_called_as_a_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_npz("mine.npz", x=rgb(), y=np.arange(4))
    save_image(tmp_path / "digits" / "a" / "0.png", rgb(1)[0])
    for name in ("mine.npz", "digits"):
        images = load_images(Path(name))
        assert images.checksum() == load_images(f"{tmp_path}/{name}").checksum()
    assert len(load_images("digits", n=2)) == 2
    assert torch.equal(load_unlabelled(Path("mine.npz"))[:], load_images("mine.npz").inputs)
    with pytest.raises(MissingFileError, match="Expected a folder of images at cifar10, found none"):
        load_images(Path("cifar10"))
    with pytest.raises(UnknownNameError, match=r"Unknown split of mine\.npz 'train'"):
        load_images(Path("mine.npz"), split="train")


def test_an_npz_may_be_named_in_capitals(tmp_path):
    path = save_npz(tmp_path / "mine.npz", x=rgb(), y=np.arange(4))
    Path(path).rename(tmp_path / "MINE.NPZ")
    assert len(load_images(str(tmp_path / "MINE.NPZ"))) == 4


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("kind", [">f4", ">f8", np.longdouble, ">f2", ">u1", bool, np.float16])
def test_numbers_of_any_precision_and_byte_order_are_the_same_images(tmp_path, kind, save, lazy):
    bits = rgb() > 127
    x = 255 * bits if kind == ">u1" else bits / 1
    save(tmp_path / "mine.npz", x=x.astype(kind), y=np.arange(4).astype(">i4"))
    images = load_images(str(tmp_path / "mine.npz"), lazy=lazy)
    assert_close(images.inputs[:], torch.from_numpy(bits).permute(0, 3, 1, 2).float(), rtol=0, atol=0)
    assert images.labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("lazy", [False, True])
def test_bytes_of_0_and_1_are_on_either_scale_and_refused(tmp_path, lazy):
    ones = np.zeros((4, 1, 2, 2), np.uint8)
    ones[2:] = 1
    path = save_npz(tmp_path / "mine.npz", x=ones, y=np.arange(4))
    for load in (load_unlabelled, functools.partial(load_images, lazy=lazy)):
        with pytest.raises(
            FileFormatError, match="x of uint8 from 0 to 255, got nothing above 1; save x that is 0 or 1"
        ):
            load(path, n=2)  # whatever is taken of it
    save_npz(path, x=ones.astype(bool), y=np.arange(4))
    assert load_images(path, lazy=lazy).inputs[:].amax(dim=(1, 2, 3)).tolist() == [0, 0, 1, 1]
    save_npz(path, x=np.zeros_like(ones), y=np.arange(4))  # black on either scale
    assert not load_images(path, lazy=lazy).inputs[:].any()


@pytest.mark.parametrize("layout", ["n c h w", "n h w c"])
@pytest.mark.parametrize(
    ("convert", "decoding"),
    [
        (lambda pixels: pixels, "divided by 255"),
        (lambda pixels: (pixels / 255).astype(np.float32), "as stored"),
        (lambda pixels: pixels / 255, "as stored"),
    ],
)
def test_an_npz_is_read_in_both_layouts_and_both_scales(tmp_path, layout, convert, decoding):
    pixels = rgb()
    x = convert(pixels if layout == "n h w c" else pixels.transpose(0, 3, 1, 2))
    images = load_images(save_npz(tmp_path / "mine.npz", x=x, y=np.arange(4, dtype=np.uint8)))
    assert_close(images.inputs, torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    assert_close(images.labels, torch.arange(4))
    assert (images.name, images.decoding) == ("mine", decoding)
    assert images.inputs.is_contiguous()


@pytest.mark.parametrize(
    ("arrays", "error", "text"),
    [
        ({"x": rgb()}, FileFormatError, "to hold arrays x (images) and y (labels), got arrays x"),
        ({"a": rgb(), "b": np.arange(4)}, FileFormatError, "got arrays a, b"),
        ({}, FileFormatError, "got arrays of no name"),
        ({"x": rgb()[0], "y": np.arange(4)}, FileFormatError, "got x (5, 6, 3) and y (4,)"),
        ({"x": rgb(), "y": np.arange(3)}, FileFormatError, "got x (4, 5, 6, 3) and y (3,)"),
        ({"x": rgb(), "y": np.eye(4)}, FileFormatError, "and y (4, 4)"),
        ({"x": rgb(0), "y": np.arange(0)}, FileFormatError, "got x (0, 5, 6, 3)"),
        ({"x": rgb(), "y": np.array(list("abcd"))}, FileFormatError, "numbers x and whole numbers y"),
        ({"x": rgb(), "y": np.array([0.5, 1, 2, 3])}, FileFormatError, "y of float64"),
        ({"x": rgb() * 1j, "y": np.arange(4)}, FileFormatError, "x of complex128"),
        ({"x": np.array([[[[None]]]]), "y": np.arange(1)}, FileFormatError, "arrays x and y saved by numpy"),
        ({"x": rgb().astype(int), "y": np.arange(4)}, PixelRangeError, "divide by 255"),
        ({"x": rgb() / 255 - 0.5, "y": np.arange(4)}, PixelRangeError, "mean-normalised"),
        ({"x": np.full((1, 1, 2, 2), np.nan), "y": np.arange(1)}, PixelRangeError, "NaN came in"),
    ],
)
def test_an_npz_that_holds_something_else_is_refused_with_what_it_holds(tmp_path, arrays, error, text):
    with pytest.raises(error) as caught:
        load_images(save_npz(tmp_path / "mine.npz", **arrays))
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("labels", [{}, {"y": np.array(["a", None])}, {"y": np.arange(3)}])
def test_images_without_labels_are_those_that_labels_would_come_with(tmp_path, save, labels):
    save(tmp_path / "mine.npz", x=rgb(), **labels)
    found = load_unlabelled(str(tmp_path / "mine.npz"), n=3)
    save(tmp_path / "theirs.npz", x=rgb(), y=np.arange(4))
    assert torch.equal(found[:4], load_images(str(tmp_path / "theirs.npz"), n=3).inputs)


@pytest.mark.parametrize(
    ("arrays", "options", "error", "text"),
    [
        ({"y": np.arange(4)}, {}, FileFormatError, "to hold array x (images), got arrays y."),
        ({"x": rgb()[0]}, {}, FileFormatError, "to hold numbers x (n, c, h, w), got x (5, 6, 3) of uint8"),
        ({"x": rgb(0)}, {}, FileFormatError, "got x (0, 5, 6, 3)"),
        ({"x": np.full((1, 1, 2, 2), "a")}, {}, FileFormatError, "of <U1"),
        ({"x": rgb()}, {"split": "train"}, UnknownNameError, "the nearest are: test"),
        ({"x": rgb()}, {"n": -1}, UsageError, "Expected a number of images of 0 (all) or more, got -1."),
    ],
)
def test_a_file_without_images_is_refused_where_labels_are_not_needed_too(tmp_path, arrays, options, error, text):
    with pytest.raises(error) as caught:
        load_unlabelled(save_npz(tmp_path / "mine.npz", **arrays), **options)
    assert text in str(caught.value)


def test_a_file_that_is_no_npz_or_a_damaged_one_is_refused(tmp_path):
    path = tmp_path / "mine.npz"
    save_npz(path, x=rgb(), y=np.arange(4))
    whole = path.read_bytes()
    with (tmp_path / "array.npy").open("wb") as file:
        np.save(file, rgb())
    flipped = whole[:200] + bytes([whole[200] ^ 255]) + whole[201:]
    for content in (b"", b"text", whole[: len(whole) // 2], flipped, (tmp_path / "array.npy").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match="to hold arrays x and y saved by numpy"):
            load_images(str(path))


def test_a_folder_gives_its_images_in_one_fixed_shuffled_order_with_labels_by_name(tmp_path):
    pixels = rgb(12)
    for number, image in enumerate(pixels):
        save_image(tmp_path / "mine" / f"class_{number % 3}" / f"{number:02d}.png", image)
    images = load_images(str(tmp_path / "mine"))
    assert (images.name, images.decoding) == ("mine", "divided by 255")
    by_content = {image.tobytes(): number % 3 for number, image in enumerate(pixels)}
    stored = (255 * images.inputs).round().byte().permute(0, 2, 3, 1).numpy()
    assert {image.tobytes() for image in stored} == set(by_content)
    assert [by_content[image.tobytes()] for image in stored] == images.labels.tolist()
    assert images.labels.tolist() != sorted(images.labels.tolist())
    first = load_images(str(tmp_path / "mine"), n=5)
    assert_close(first.inputs, images.inputs[:5])
    assert_close(first.labels, images.labels[:5])


def test_images_of_several_sizes_are_resized_and_cropped_however_few_differ(tmp_path):
    for number in range(20):
        save_image(tmp_path / "a" / f"{number:02d}.png", rgb(1)[0])
    save_image(tmp_path / "a" / "odd.png", rgb(1, 300, 20)[0])
    images = load_images(f"{tmp_path}/")
    assert images.inputs.shape == (21, 3, 224, 224)
    assert images.decoding == "divided by 255, resized to 256 and cropped to 224"


@pytest.mark.parametrize("size", [(11, 13), (224, 224)])
def test_how_a_folder_is_read_does_not_depend_on_how_many_of_its_images_are_taken(tmp_path, size):
    for number in range(9):
        save_image(tmp_path / "a" / f"{number}.png", rgb(1, *size)[0])
    assert load_images(f"{tmp_path}/", n=2).inputs.shape == (2, 3, *size)
    save_image(tmp_path / "b" / "odd.png", rgb(1, 20, 20)[0])
    everything = load_images(f"{tmp_path}/")
    for n in range(1, 10):
        some = load_images(f"{tmp_path}/", n=n)
        assert some.checksum() == everything.head(n).checksum()
        assert some.decoding == everything.decoding == "divided by 255, resized to 256 and cropped to 224"


@pytest.mark.parametrize(("size", "resized"), [((224, 100), False), ((224, 224), False), ((225, 100), True)])
def test_images_of_one_size_are_resized_only_where_it_is_too_large(tmp_path, size, resized):
    save_image(tmp_path / "a" / "0.png", rgb(1, *size)[0])
    images = load_images(f"{tmp_path}/")
    assert images.inputs.shape == (1, 3, *((224, 224) if resized else size))
    assert ("resized" in images.decoding) == resized


def test_grey_images_of_a_folder_become_coloured(tmp_path):
    save_image(tmp_path / "a" / "0.png", rgb(1)[0, :, :, 0])
    inputs = load_images(f"{tmp_path}/").inputs
    assert_close(inputs, torch.from_numpy(rgb(1)[0, :, :, 0] / 255).float().expand(1, 3, 5, 6))


def test_a_folder_without_classes_or_with_a_damaged_image_is_refused(tmp_path):
    with pytest.raises(FileFormatError, match="to hold one subfolder of images per class"):
        load_images(f"{tmp_path}/")
    (tmp_path / "a").mkdir()
    with pytest.raises(FileFormatError, match="to hold one subfolder of images per class"):
        load_images(f"{tmp_path}/")
    (tmp_path / "a" / "0.png").write_bytes(b"no image")
    with pytest.raises(FileFormatError, match="to hold an image, got cannot identify image file"):
        load_images(f"{tmp_path}/")


@pytest.mark.parametrize(
    ("dataset", "options", "error", "text"),
    [
        ("cifar11", {}, UnknownNameError, "Unknown dataset 'cifar11'; the nearest are: cifar10"),
        ("digits", {"split": "validation"}, UnknownNameError, "Unknown split of digits 'validation'"),
        ("cifar10", {"split": "calibration"}, UnknownNameError, "Unknown split of cifar10 'calibration'"),
        ("digits", {"n": -1}, UsageError, "Expected a number of images of 0 (all) or more, got -1."),
        ("nowhere/mine.npz", {}, MissingFileError, "Expected a file of images at nowhere/mine.npz, found none"),
        ("nowhere/mine", {}, MissingFileError, "Expected a folder of images at nowhere/mine, found none"),
        ("nowhere/mine.npz", {"split": "train"}, UnknownNameError, "the nearest are: test"),
        ("cifar10", {}, DownloadError, "ask for the download (download=True, --download)"),
        ("cifar100", {"split": "train"}, DownloadError, "or name another folder in MARGINCONS_DATA"),
        ("imagenet", {}, DownloadError, "its licence forbids fetching them for you"),
    ],
)
def test_what_is_not_there_is_named_in_one_line(tmp_path, monkeypatch, dataset, options, error, text):
    monkeypatch.setenv("MARGINCONS_DATA", str(tmp_path))
    with pytest.raises(error) as caught:
        load_images(dataset, **options)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_imagenet_is_read_from_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MARGINCONS_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    for number, name in enumerate(("n01", "n02", "n03")):
        save_image(tmp_path / "imagenet" / "val" / name / "0.png", rgb(3, 260, 300)[number])
    images = load_images("imagenet", n=2)
    assert images.inputs.shape == (2, 3, 224, 224)


def test_images_of_ones_own_are_refused_where_they_are_no_images_or_lack_a_label():
    with pytest.raises(PixelRangeError):
        Images(inputs=torch.full((2, 1, 8, 8), 16.0), labels=torch.tensor([0, 1]))
    with pytest.raises(ShapeError, match=r"one per image, \(2,\) torch.int64, got \(1,\)"):
        Images(inputs=torch.rand(2, 1, 8, 8), labels=torch.tensor([0]))
