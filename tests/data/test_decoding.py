"""Images that are decoded when they are asked for are those that are decoded at once."""

import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from margincons.data import load_images
from margincons.data.decoding import ArrayOnDisk, Decoded
from margincons.errors import FileFormatError, PixelRangeError


def save_folder(folder, rng, n=6):
    for number in range(n):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture(params=["bytes", "compressed", "floats", "folder"])
def dataset(request, tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(256, size=(7, 8, 9, 3), dtype=np.uint8), np.arange(7)
    path = tmp_path / "mine.npz"
    if request.param == "folder":
        return str(save_folder(tmp_path / "folder", rng))
    if request.param == "floats":
        np.savez(path, x=x.transpose(0, 3, 1, 2).astype(np.float64) / 255, y=y)
    else:
        (np.savez if request.param == "bytes" else np.savez_compressed)(path, x=x, y=y)
    return str(path)


@pytest.mark.parametrize("n", [None, 4])
def test_lazy_images_are_the_eager_ones(dataset, n):
    lazy, eager = (load_images(dataset, n=n, lazy=lazy) for lazy in (True, False))
    assert isinstance(lazy.inputs, Decoded)
    assert isinstance(eager.inputs, torch.Tensor)
    assert (len(lazy), lazy.name, lazy.decoding) == (len(eager), eager.name, eager.decoding)
    assert lazy.checksum() == eager.checksum()
    assert lazy.head(3).checksum() == eager.head(3).checksum() != eager.checksum()
    some = [slice(0, 2), slice(None), torch.tensor([3, 0, 2]), torch.arange(len(eager)) > 1, np.array([1])]
    for rows in (*some, torch.tensor([2]), slice(1, 2), 0, -1, torch.tensor(1)):
        assert_close(lazy.inputs[rows], eager.inputs[rows], rtol=0, atol=0)
    assert_close(lazy.labels, eager.labels)


def test_an_uncompressed_array_stays_on_disk_and_any_other_is_not_taken_for_one(tmp_path):
    x = np.arange(24, dtype=np.uint16).reshape(4, 3, 2)
    np.savez(tmp_path / "plain.npz", before=np.zeros(5), x=x)
    np.savez(tmp_path / "columns.npz", x=np.asfortranarray(x))
    np.savez_compressed(tmp_path / "compressed.npz", x=x)
    found = ArrayOnDisk.within(tmp_path / "plain.npz", "x")
    assert (len(found), found.shape, found.ndim, found.size, found.dtype) == (4, x.shape, 3, 24, x.dtype)
    assert np.array_equal(found[np.array([2, 0, 3])], x[[2, 0, 3]])
    for name in ("columns", "compressed"):
        assert ArrayOnDisk.within(tmp_path / f"{name}.npz", "x") is None


def test_a_file_that_ends_too_early_and_pixels_that_are_none_are_refused(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, x=np.zeros((3, 1, 2, 2), np.float32), y=np.arange(3))
    images = load_images(str(path), lazy=True)
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("x.npy").header_offset
    path.write_bytes(path.read_bytes()[: start + 180])
    with pytest.raises(FileFormatError, match="to hold 3 images, got an end in image"):
        images.checksum()
    np.savez(path, x=np.full((3, 1, 2, 2), 255.0), y=np.arange(3))
    with pytest.raises(PixelRangeError, match="divide by 255"):
        load_images(str(path), lazy=True).checksum()
    folder = save_folder(tmp_path / "folder", np.random.default_rng(0))
    images = load_images(str(folder), lazy=True)
    (folder / "a" / "0.png").write_bytes(b"no image")
    with pytest.raises(FileFormatError, match="to hold an image"):
        images.checksum()
