"""What an .npz promises is held against what it holds before numpy opens it."""

import zipfile

import numpy as np
import pytest

from margincons.data.npz import HARMLESS, INFLATION, check_npz
from margincons.errors import FileFormatError

NAMES = ("x", "y")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_what_numpy_saved_passes(tmp_path, save, kind, order):
    save(
        tmp_path / "good.npz", x=np.asarray(np.random.default_rng(0).random((3, 4, 5, 6)), kind, order), y=np.arange(3)
    )
    check_npz(tmp_path / "good.npz", NAMES)


def test_black_images_pass_until_they_are_large(tmp_path):
    side, path = 1024, tmp_path / "black.npz"
    np.savez_compressed(path, x=np.zeros((8, 1, side, side), np.uint8), y=np.zeros(8, int))
    with zipfile.ZipFile(path) as archive:
        about = archive.getinfo("x.npy")
    assert about.file_size > INFLATION * about.compress_size
    check_npz(path, NAMES)
    np.savez_compressed(path, x=np.zeros((HARMLESS // side**2, 1, side, side), np.uint8), y=np.zeros(1, int))
    with pytest.raises(FileFormatError, match=r"bytes that unpack to 2684\d+ \(\d+ times\): a zip bomb\?"):
        check_npz(path, NAMES)
    check_npz(path, ("y",))  # what is not asked for is not unpacked


def test_a_header_is_held_to_its_word(tmp_path):
    path = tmp_path / "short.npz"
    np.savez(path, x=np.zeros((2, 3)), y=np.zeros(2))
    with zipfile.ZipFile(path) as archive:
        content = archive.read("x.npy")
    for change, held in ((content[:-1], 47), (content + b"!", 49)):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", change)
        with pytest.raises(FileFormatError, match=f"to hold 48 bytes of x.npy, as its header says, got {held}"):
            check_npz(path, NAMES)
