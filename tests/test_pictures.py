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
    inputs, decoding = decode_pictures([file])
    assert np.array_equal((255 * inputs[:1]).round().numpy()[0], pixels.transpose(2, 0, 1))
    assert decoding == "divided by 255"
    grey, _ = decode_pictures([save(tmp_path / "b.png", pixels[..., 0])], grey=True)
    assert np.array_equal((255 * grey[:1]).round().numpy()[0, 0], pixels[..., 0])


def test_pictures_of_several_sizes_become_alike(tmp_path):
    files = [save(tmp_path / f"{size}.png", np.zeros((size, size + 7, 3))) for size in (20, 300)]
    inputs, decoding = decode_pictures(files)
    assert inputs[:2].shape == (2, 3, 224, 224)
    assert decoding == "divided by 255, resized to 256 and cropped to 224"


def test_a_picture_that_is_cut_short_is_refused_when_its_turn_comes(tmp_path):
    file = save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3)))
    file.write_bytes(file.read_bytes()[:3000])
    inputs, _ = decode_pictures([file])
    with pytest.raises(FileFormatError, match=r"a\.png to hold an image, got "):
        inputs[:1]


def test_a_picture_is_decoded_alike_whichever_others_are_opened_with_it(tmp_path):
    rng = np.random.default_rng(0)
    square = save(tmp_path / "square.png", rng.integers(0, 256, (224, 224, 3)))
    other = save(tmp_path / "other.png", rng.integers(0, 256, (300, 260, 3)))
    alone, beside = (decode_pictures(files)[0][:1] for files in ([square], [square, other]))
    assert (alone == beside).all()
    assert (decode_pictures([other])[0][:1] == decode_pictures([square, other])[0][1:2]).all()


def test_pictures_of_another_shape_than_wanted_are_refused_by_name(tmp_path):
    files = [save(tmp_path / f"{size}.png", np.zeros((size, size, 3))) for size in (32, 40)]
    with pytest.raises(FileFormatError, match=r"40\.png to hold a picture of 32x32 pixels, got one of 40x40"):
        decode_pictures(files, shape=(32, 32))


def test_pictures_of_sixteen_bits_are_refused_rather_than_cut(tmp_path):
    Image.fromarray(np.full((8, 8), 30000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(FileFormatError, match=r"deep\.png to hold a picture of 8 bits a channel, got one of mode I;16"):
        decode_pictures([tmp_path / "deep.png"], grey=True)
