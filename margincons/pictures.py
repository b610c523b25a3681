"""Picture files as images: decoded when asked for, all in the same way."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from margincons.decoding import Decoded
from margincons.errors import FileFormatError

PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # as torchvision reads


def decode_pictures(
    files: Sequence[str | Path], *, folder: Path, grey: bool = False, size: int = 224
) -> tuple[Decoded, str]:
    """Open pictures; those of several sizes, or larger ones, are resized and cropped as ImageNet's are.

    Args:
        files: Their paths.
        folder: Where they were found, for messages.
        grey: One channel; else three, grey ones becoming coloured.
        size: Side that larger ones are cropped to.

    Returns:
        The images, decoded when rows are asked for, and how stored values become [0, 1].

    Raises:
        FileFormatError: If one cannot be read, or unpacks to more than Pillow allows.
    """
    from PIL import Image
    from torchvision import transforms

    damage = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)  # what Pillow raises
    try:
        sizes = set()
        for file in files:
            with Image.open(file) as header:
                sizes.add(header.size)
    except damage as error:
        raise FileFormatError(folder, "images", str(error)) from None
    same = len(sizes) == 1 and max(*sizes.copy().pop()) <= size
    steps = [] if same else [transforms.Resize(256), transforms.CenterCrop(size)]
    to_tensor = transforms.Compose([*steps, transforms.ToTensor()])

    def read(file: str | Path) -> Tensor:
        with Image.open(file) as picture:
            return to_tensor(picture.convert("L" if grey else "RGB"))

    def decode(places: np.ndarray) -> Tensor:
        try:
            return torch.stack([read(files[place]) for place in places])
        except damage as error:
            raise FileFormatError(folder, "images", str(error)) from None

    decoding = "divided by 255" + ("" if same else f", resized to 256 and cropped to {size}")
    return Decoded(decode=decode, count=len(files)), decoding
