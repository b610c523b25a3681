"""Picture files as images: decoded when asked for, all in the same way."""

import functools
import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from margincons.cautions import TransparencyWarning
from margincons.data.decoding import Decoded
from margincons.errors import FileFormatError

if TYPE_CHECKING:
    from PIL import Image

PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # as torchvision reads
DEEP = re.compile(";16[BLN]$")  # end of Pillow's names for 16 bits a channel; "BGR;16" is 16 bits a pixel
RESIZED, CROPPED = 256, 224  # shorter side, then the square in its middle: what ImageNet's networks are tested on


def decode_pictures(
    files: Sequence[str | Path], *, n: int | None = None, grey: bool = False, shape: tuple[int, int] | None = None
) -> tuple[Decoded, str]:
    """Open pictures; each is decoded in the same way, whichever others are opened with it, once the shape is known.

    A picture of the wanted shape is taken as it is. Others are resized and cropped as ImageNet's are where that is the
    shape wanted, and refused where it is not. Of pictures with an alpha channel the colours are taken as they are
    stored, and a `TransparencyWarning` counts them.

    Args:
        files: Their paths.
        n: Only the first are opened; all when None or 0.
        grey: One channel; else three, grey ones becoming coloured.
        shape: Height and width wanted; if None that of all the pictures, beyond the first n too, where they have one
            and it is not larger than `CROPPED`, else `CROPPED` by `CROPPED`.

    Returns:
        The images, decoded when rows are asked for, and how stored values become [0, 1].

    Raises:
        FileFormatError: If one cannot be read, has more than 8 bits a channel, cannot be brought to the shape
            wanted, or unpacks to more than Pillow allows.
    """
    from PIL import Image
    from torchvision import transforms

    damage = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)  # what Pillow raises

    @functools.cache
    def header(file: str | Path) -> tuple[tuple[int, int], str, bool]:
        """Size, mode where it is too deep, and whether there is an alpha channel."""
        try:
            with Image.open(file) as opened:
                return opened.size[::-1], _too_deep(opened), opened.has_transparency_data
        except damage as error:
            raise FileFormatError(file, "an image", str(error)) from None

    common = _common_size(header(file)[0] for file in files) if shape is None else shape
    files, found, transparent = files[: n or None], {}, []
    for file in files:
        found[file], depth, alpha = header(file)
        transparent += [file] if alpha else []
        if depth:
            raise FileFormatError(file, "a picture of 8 bits a channel", f"one of mode {depth}")
    if transparent:
        seen = f"{len(transparent)} of {len(files)} pictures have an alpha channel, the first {transparent[0]}"
        warnings.warn(TransparencyWarning(seen), stacklevel=2)
    shape = common or (CROPPED, CROPPED)
    others = [file for file, size in found.items() if size != shape]
    if others and shape != (CROPPED, CROPPED):
        wanted, got = ("x".join(map(str, size)) for size in (shape, found[others[0]]))
        raise FileFormatError(others[0], f"a picture of {wanted} pixels", f"one of {got}")
    fit = transforms.Compose([transforms.Resize(RESIZED), transforms.CenterCrop(CROPPED)])
    to_tensor = transforms.ToTensor()

    def read(file: str | Path) -> Tensor:
        try:
            with Image.open(file) as picture:
                full = picture.convert("RGBA") if picture.mode == "P" else picture  # its palette may hold alpha
                same = full.convert("L" if grey else "RGB")
        except damage as error:
            raise FileFormatError(file, "an image", str(error)) from None
        return to_tensor(same if found[file] == shape else fit(same))

    decoding = "divided by 255" + (f", resized to {RESIZED} and cropped to {CROPPED}" if others or not common else "")
    decoded = Decoded(decode=lambda places: torch.stack([read(files[place]) for place in places]), count=len(files))
    return decoded, decoding


def _common_size(sizes: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
    """The one size of all pictures, at most `CROPPED`; None as soon as one is larger or another."""
    first = None
    for size in sizes:
        first = first or size
        if size != first or max(size) > CROPPED:
            return None
    return first


def _too_deep(picture: "Image.Image") -> str:
    """What Pillow would cut to 8 bits a channel without a word: as it is stored; nothing where it would not."""
    if picture.mode[0] in "IF":
        return picture.mode
    for _, _, _, stored in picture.tile:
        name, most = (*stored, 0, 0)[:2] if isinstance(stored, tuple) else (stored, 0)
        if DEEP.search(str(name)):
            return str(name)
        if picture.format == "PPM" and (most or 0) > 255:
            return f"{name} up to {most}"
    return ""
