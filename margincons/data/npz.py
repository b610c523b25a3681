"""A look at an .npz before numpy opens it: a small file may promise, or unpack to, more than a machine holds.

numpy makes room for what an array's header promises, and inflates what was deflated, before anything can be checked.
"""

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from margincons.errors import FileFormatError

INFLATION = 200  # times; photographs deflate 1 to 3 times, digits 10 to 20, nothing but zeros 1000
HARMLESS = 2**28  # bytes that may be unpacked from anything

DAMAGE = (  # what zipfile and numpy raise on damaged, encrypted or foreign files
    OSError,
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,
    KeyError,
    SyntaxError,
    TypeError,
    MemoryError,
    OverflowError,
)


def check_npz(path: Path, names: tuple[str, ...]) -> None:
    """Refuse a file whose arrays could not be what they say they are; nothing is unpacked but their headers.

    Args:
        path: Of the .npz.
        names: Of the arrays that will be read; others are never unpacked.

    Raises:
        FileFormatError: If it is no archive, an array's header promises another size than the file holds, holds
            Python objects, or would unpack to more than 256 MiB and 200 times its size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.filename.removesuffix(".npy") in names:
                    with archive.open(info) as member:
                        promised, header = _promised(member)
                    _check(path, info, promised, info.file_size - header)
    except DAMAGE as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise FileFormatError(path, "arrays x and y saved by numpy", said) from None


def _promised(member: IO[bytes]) -> tuple[int | None, int]:
    """Bytes that an array's header promises, None for Python objects, and bytes of the header itself."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(member)
    return None if dtype.hasobject else math.prod(shape) * dtype.itemsize, member.tell()


def _check(path: Path, info: zipfile.ZipInfo, promised: int | None, held: int) -> None:
    if promised is None:
        raise FileFormatError(path, "arrays x and y saved by numpy", f"Python objects in {info.filename}: a pickle")
    if promised != held:
        raise FileFormatError(path, f"{promised} bytes of {info.filename}, as its header says", f"{held}")
    times = info.file_size / max(1, info.compress_size)
    if info.file_size > HARMLESS and times > INFLATION:
        raise FileFormatError(
            path,
            "images",
            f"{info.compress_size} bytes that unpack to {info.file_size} ({times:.0f} times): a zip bomb? "
            "Save images that are real with numpy.savez, uncompressed",
        )
