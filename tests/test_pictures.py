import numpy as np
import pytest
from PIL import Image

from margincons.errors import FileFormatError
from margincons.pictures import decode_pictures


def save(path, pixels):
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return path


def test_pixels_are_the_stored_ones_over_255_in_as_many_channels_as_asked_for(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3))
    file = save(tmp_path / "a.png", pixels)
    inputs, decoding = decode_pictures([file], folder=tmp_path)
    assert np.array_equal((255 * inputs[:1]).round().numpy()[0], pixels.transpose(2, 0, 1))
    assert decoding == "divided by 255"
    grey, _ = decode_pictures([save(tmp_path / "b.png", pixels[..., 0])], folder=tmp_path, grey=True)
    assert np.array_equal((255 * grey[:1]).round().numpy()[0, 0], pixels[..., 0])


def test_pictures_of_several_sizes_become_alike(tmp_path):
    files = [save(tmp_path / f"{size}.png", np.zeros((size, size + 7, 3))) for size in (20, 300)]
    inputs, decoding = decode_pictures(files, folder=tmp_path)
    assert inputs[:2].shape == (2, 3, 224, 224)
    assert decoding == "divided by 255, resized to 256 and cropped to 224"


def test_a_picture_that_is_cut_short_is_refused_when_its_turn_comes(tmp_path):
    file = save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3)))
    file.write_bytes(file.read_bytes()[:3000])
    inputs, _ = decode_pictures([file], folder=tmp_path)
    with pytest.raises(FileFormatError, match="to hold images, got "):
        inputs[:1]
