import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from margincons.cautions import TransparencyWarning
from margincons.data.pictures import decode_pictures
from margincons.errors import FileFormatError


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


def png_of_16_bits(kind, channels):
    """A PNG by its specification: Pillow writes none of these."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + np.full((4, channels), 0x12FF, ">u2").tobytes() for _ in range(4))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bmp_of_16_bits_a_pixel():
    """Five bits of red, six of green, five of blue."""
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    about = struct.pack("<IiiHHIIiiII", 40, 4, 4, 1, 16, 3, 32, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 98, 0, 0, 66) + about + masks + struct.pack("<16H", *[0xF800] * 16)


CUT = {
    "grey.png": (png_of_16_bits(0, 1), "I;16"),
    "colour.png": (png_of_16_bits(2, 3), "RGB;16B"),
    "grey_alpha.png": (png_of_16_bits(4, 2), "LA;16B"),
    "colour_alpha.png": (png_of_16_bits(6, 4), "RGBA;16B"),
    "colour.ppm": (b"P6\n4 4\n1000\n" + bytes(96), "RGB up to 1000"),
    "grey.pgm": (b"P5\n4 4\n65535\n" + bytes(32), "I"),
}


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("grey", [True, False])
def test_pictures_of_more_than_eight_bits_a_channel_are_refused_rather_than_cut(name, grey, tmp_path):
    content, mode = CUT[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileFormatError) as caught:
        decode_pictures([tmp_path / name], grey=grey)
    assert str(caught.value).endswith(f"{name} to hold a picture of 8 bits a channel, got one of mode {mode}.")


def test_pictures_of_fewer_bits_are_read(tmp_path):
    (tmp_path / "red.bmp").write_bytes(bmp_of_16_bits_a_pixel())
    (tmp_path / "dim.ppm").write_bytes(b"P6\n4 4\n100\n" + 48 * bytes([50]))
    (tmp_path / "bits.ppm").write_bytes(b"P1\n4 4\n" + b"0 1 0 1\n" * 4)  # 1 is black
    inputs, _ = decode_pictures([tmp_path / name for name in ("red.bmp", "dim.ppm", "bits.ppm")])
    assert inputs[:1].mean(dim=(0, 2, 3)).tolist() == [1, 0, 0]
    assert abs(inputs[1:2] - 0.5).max() < 1 / 255
    assert inputs[2:3][0, 0].tolist() == 4 * [[1, 0, 1, 0]]


def test_an_alpha_channel_is_counted_once_and_the_stored_colours_are_read(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (6, 6, 4))
    palette = Image.fromarray(np.arange(36, dtype=np.uint8).reshape(6, 6)).convert("P")
    palette.putpalette(list(colours[..., :3].ravel()))
    palette.save(tmp_path / "palette.png", transparency=bytes(range(36)))
    save(tmp_path / "grey.png", colours[..., :2])
    save(tmp_path / "alpha.png", colours)
    save(tmp_path / "plain.png", colours[..., :3])
    files = [tmp_path / f"{name}.png" for name in ("plain", "alpha", "palette", "grey", "plain")]
    with pytest.warns(TransparencyWarning) as seen:
        inputs, _ = decode_pictures(files)
        shown = (255 * inputs[:5]).round().numpy()
    (only,) = seen
    assert str(only.message) == (
        f"3 of 5 pictures have an alpha channel, the first {tmp_path / 'alpha.png'}; their colours are read as if "
        "opaque: lay them on the background that they are meant for, if some are not."
    )
    for row in (0, 1, 2, 4):
        assert np.array_equal(shown[row], colours[..., :3].transpose(2, 0, 1))
    assert np.array_equal(shown[3], np.broadcast_to(colours[..., 0], (3, 6, 6)))
