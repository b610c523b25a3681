"""Images that stay on disk, or as stored, until rows of them are asked for: a data set of any size streams through."""

import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from margincons.errors import FileFormatError
from margincons.threat import check_images


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What stands for a tensor (n, c, h, w) where that would be too large: rows of it are decoded when asked for."""

    decode: Callable[[np.ndarray], Tensor]  # places (m,) to images (m, c, h, w) in [0, 1]
    count: int  # images

    def __len__(self) -> int:
        """Count the images."""
        return self.count

    def __getitem__(self, rows: slice | Tensor | int) -> Tensor:
        """Decode some rows as a tensor would give them, one where ``rows`` is a number; check that they are images.

        Raises:
            PixelRangeError: If a pixel is NaN or leaves [0, 1].
        """
        rows = rows.numpy() if isinstance(rows, Tensor) else rows  # numpy takes a tensor (1,) for a number
        places = np.arange(self.count)[rows]
        images = self.decode(np.atleast_1d(places))
        check_images(images)
        return images if places.ndim else images[0]

    def head(self, n: int) -> "Decoded":
        """The first images only; nothing is decoded."""
        return replace(self, count=min(n, self.count))


@dataclass(frozen=True, kw_only=True)
class ArrayOnDisk:
    """An uncompressed array of an .npz, read row by row: not mapped, since mapped pages count as memory."""

    path: Path
    offset: int  # of the first value, in bytes
    shape: tuple[int, ...]
    dtype: np.dtype

    @classmethod
    def within(cls, path: Path, name: str) -> "ArrayOnDisk | None":
        """Find array ``name`` in an .npz; None where it is compressed, of Python objects, or stored by columns."""
        with zipfile.ZipFile(path) as archive:
            entry = archive.getinfo(f"{name}.npy")
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                return None
            with archive.open(entry) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, by_columns, dtype = read(file)
                header = file.tell()
        if by_columns or dtype.hasobject:
            return None
        with path.open("rb") as file:
            file.seek(entry.header_offset + 26)  # of the local header: lengths of the name and of the extra field
            lengths = sum(struct.unpack("<HH", file.read(4)))
        return cls(path=path, offset=entry.header_offset + 30 + lengths + header, shape=shape, dtype=dtype)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        """Number of rows."""
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        """Read rows, (m, ...)."""
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        stride = found[:1].nbytes
        with self.path.open("rb") as file:
            for place, row in zip(found, rows, strict=True):
                file.seek(self.offset + int(row) * stride)
                if file.readinto(place) < stride:
                    raise FileFormatError(self.path, f"{len(self)} images", f"an end in image {row}")
        return found


def scaled(pixels: np.ndarray, *, channels_last: bool, scale: int) -> Tensor:
    """Turn stored pixels (m, c, h, w), or (m, h, w, c), into images (m, c, h, w)."""
    pixels = pixels.transpose(0, 3, 1, 2) if channels_last else pixels
    with np.errstate(over="ignore"):  # what single precision cannot hold becomes infinite, and is refused as that
        return torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32)) / scale  # whatever the byte order
