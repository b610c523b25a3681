"""Images and labels by name or by path, decoded to [0, 1] here and nowhere else."""

import functools
import hashlib
import os
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from margincons.brief import Brief
from margincons.data.decoding import ArrayOnDisk, Decoded, scaled
from margincons.data.npz import DAMAGE, check_npz
from margincons.data.pictures import decode_pictures
from margincons.errors import DownloadError, FileFormatError, MissingFileError, UnknownNameError, UsageError
from margincons.threat import check_images, check_labels

CLASSES = {"digits": 10, "cifar10": 10, "cifar100": 100, "imagenet": 1000}
DATASETS = tuple(CLASSES)
DIGITS_SPLITS = {"train": 797, "calibration": 200, "test": 800}
CHUNK = 512  # images decoded at once for a checksum
_DIGITS_SEED = 20240626


@dataclass(frozen=True, kw_only=True, repr=False)
class Images(Brief):
    """Labelled images, in a fixed order: from `load_images`, or from tensors at hand.

    Raises:
        ShapeError: If the images are no floating-point batch, or there is not one whole label per image.
        PixelRangeError: If a pixel leaves [0, 1].
    """

    inputs: Tensor | Decoded  # (n, c, h, w), float32, [0, 1]; decoded when rows are asked for, where opened ``lazy``
    labels: Tensor  # (n,), int64
    name: str = "tensors"  # what load_images was asked for
    decoding: str = "as given"  # how stored values became [0, 1]

    def __post_init__(self) -> None:
        """Refuse what are no images, or no labels of them."""
        if isinstance(self.inputs, Tensor):
            check_images(self.inputs)
        check_labels(self.labels, len(self.inputs))

    def __len__(self) -> int:
        """Count the images."""
        return len(self.inputs)

    def checksum(self) -> str:
        """SHA-256 over the decoded images and labels."""
        digest = hashlib.sha256()
        for start in range(0, len(self), CHUNK):
            digest.update(self.inputs[start : start + CHUNK].contiguous().numpy())
        digest.update(self.labels.contiguous().numpy())
        return digest.hexdigest()

    def head(self, n: int) -> "Images":
        """The first n images."""
        inputs = self.inputs.head(n) if isinstance(self.inputs, Decoded) else self.inputs[:n]
        return replace(self, inputs=inputs, labels=self.labels[:n])


def load_images(
    dataset: str | Path, *, split: str = "test", n: int | None = None, download: bool = False, lazy: bool = False
) -> Images:
    """Load images by name, or from a file or folder of one's own.

    Args:
        dataset: "digits" (bundled with scikit-learn), "cifar10", "cifar100", "imagenet"; or the path of an .npz with
            arrays ``x`` (n, c, h, w) or (n, h, w, c) and ``y`` (n,); or of a folder with one subfolder per class,
            classes numbered in the order of their names as text. A folder's pictures are read in three channels, and
            as they are where all have one size of at most 224 x 224; else each that is not 224 x 224 is resized
            to 256 on its shorter side and cropped to the 224 x 224 in its middle. An .npz keeps any shape; where ``x``
            is of uint8 it is divided by 255, any other numbers are taken as they are. A `Path` is never a name.
        split: "train", "calibration" (digits only) or "test". Files and folders have one split: "test".
        n: How many images, from the first; all when None or 0. A folder is shuffled once and for all before.
        download: Whether CIFAR may be downloaded when it is not on disk; see `may_download`.
        lazy: Decode images when rows of them are asked for, so that memory does not grow with their number: an
            uncompressed .npz and a folder stay on disk, CIFAR and a compressed .npz stay as they are stored.

    Raises:
        UnknownNameError: If the name is neither a dataset nor looks like a path, or has no such split.
        MissingFileError: If a path does not exist.
        FileFormatError: If a file does not hold images and labels, or bytes of 0 and 1 only: 1 may be white or black.
        PixelRangeError: If a pixel leaves [0, 1]; of images opened ``lazy``, when it is asked for.
        DownloadError: If CIFAR or ImageNet is not on disk and may not be downloaded.
    """
    path = _own_path(dataset)
    _check_asked(path, split, n)
    if path is not None:
        images = _npz(path, lazy) if _is_npz(path) else _folder(path, n, lazy)
    elif dataset == "digits":
        images = _digits(split)
    elif dataset in ("cifar10", "cifar100"):
        images = _cifar(dataset, split, may_download(download), lazy)
    elif dataset == "imagenet":
        images = _imagenet(split, n, lazy)
    else:
        raise UnknownNameError("dataset", dataset, DATASETS)
    return images.head(n) if n else images


def load_unlabelled(dataset: str | Path, *, split: str = "test", n: int | None = None) -> Decoded:
    """Open the images alone of an .npz: array ``y`` is not looked at, and may be missing.

    Args:
        dataset: The path of an .npz with an array ``x`` (n, c, h, w) or (n, h, w, c).
        split: "test": a file has no other.
        n: How many images, from the first; all when None or 0.

    Returns:
        The images, decoded when rows are asked for.

    Raises:
        UnknownNameError: If another split is asked for.
        MissingFileError: If there is no such file.
        FileFormatError: If it does not hold images.
    """
    path = Path(dataset)
    _check_asked(path, split, n)
    pixels = _arrays(path, "x", lazy=True)["x"]
    if pixels.ndim != 4 or not pixels.size or pixels.dtype.kind not in "buif":
        raise FileFormatError(path, "numbers x (n, c, h, w)", f"x {pixels.shape} of {pixels.dtype}")
    _check_scale(path, pixels)
    images = _decoded(pixels, lazy=True)
    return images.head(n) if n else images


def _own_path(dataset: str | Path) -> Path | None:
    """Where a file or folder of one's own is; None for the name of a data set."""
    path = Path(dataset)
    if isinstance(dataset, Path):
        return path
    own = dataset not in DATASETS and (_is_npz(path) or os.sep in dataset or (bool(dataset) and path.is_dir()))
    return path if own else None


def _is_npz(path: Path) -> bool:
    return path.name.lower().endswith(".npz")


def _check_asked(path: Path | None, split: str, n: int | None) -> None:
    if n is not None and n < 0:
        raise UsageError(f"Expected a number of images of 0 (all) or more, got {n}.")
    if path is not None and split != "test":
        raise UnknownNameError(f"split of {path}", split, ("test",))


@functools.cache
def _stored_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


def _digits(split: str) -> Images:
    if split not in DIGITS_SPLITS:
        raise UnknownNameError("split of digits", split, DIGITS_SPLITS)
    pixels, labels = _stored_digits()
    order = np.random.default_rng(_DIGITS_SEED).permutation(len(labels))
    ends = np.cumsum(list(DIGITS_SPLITS.values()))
    parts = dict(zip(DIGITS_SPLITS, np.split(order, ends[:-1]), strict=True))
    rows = parts[split]
    return Images(
        inputs=torch.from_numpy(pixels[rows] / 16).float().view(-1, 1, 8, 8),
        labels=torch.from_numpy(labels[rows]).long(),
        name=f"digits/{split}",
        decoding="divided by 16",
    )


def may_download(asked: bool) -> bool:
    """Whether files may be fetched: when asked for, or when the environment variable MARGINCONS_DOWNLOAD is 1."""
    return asked or os.environ.get("MARGINCONS_DOWNLOAD") == "1"


def data_folder() -> Path:
    """Where downloaded datasets live: the environment variable MARGINCONS_DATA, else a folder of the user's cache."""
    return Path(os.environ.get("MARGINCONS_DATA", "~/.cache/margincons/data")).expanduser()


def _cifar(dataset: str, split: str, download: bool, lazy: bool) -> Images:
    from torchvision import datasets

    if split not in ("train", "test"):
        raise UnknownNameError(f"split of {dataset}", split, ("train", "test"))
    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[dataset]
    folder = data_folder()
    try:
        stored = source(str(folder), train=split == "train", download=download)
    except (RuntimeError, OSError) as error:
        if download:
            raise DownloadError(f"Expected to download {dataset} to {folder}, but: {error}") from error
        raise DownloadError(
            f"Expected {dataset} in {folder}, found none that is whole; "
            "ask for the download (download=True, --download), or name another folder in MARGINCONS_DATA."
        ) from None
    return Images(
        inputs=_decoded(stored.data, lazy),
        labels=torch.tensor(stored.targets),
        name=f"{dataset}/{split}",
        decoding="divided by 255",
    )


def _decoded(pixels: np.ndarray | ArrayOnDisk, lazy: bool) -> Tensor | Decoded:
    """Stored pixels (n, c, h, w) or (n, h, w, c) as images; bytes are divided by 255."""
    last = pixels.shape[1] not in (1, 3) and pixels.shape[3] in (1, 3)
    decode = functools.partial(scaled, channels_last=last, scale=255 if pixels.dtype == np.uint8 else 1)
    return Decoded(decode=lambda rows: decode(pixels[rows]), count=len(pixels)) if lazy else decode(pixels)


def _check_scale(path: Path, pixels: np.ndarray | ArrayOnDisk) -> None:
    """Refuse bytes of which the largest is 1: divided by 255 they are black, and nobody knows that they should be."""
    largest = 0
    for row in range(len(pixels) if pixels.dtype == np.uint8 else 0):
        largest = max(largest, pixels[np.array([row])].max())
        if largest > 1:  # mostly the first image says so
            return
    if largest == 1:
        raise FileFormatError(
            path, "x of uint8 from 0 to 255", "nothing above 1; save x that is 0 or 1 as bool, or as float32"
        )


def _imagenet(split: str, n: int | None, lazy: bool) -> Images:
    folder = data_folder() / "imagenet" / ("val" if split == "test" else split)
    if not folder.is_dir():
        raise DownloadError(
            f"Expected ImageNet's images, one folder per class, in {folder}; "
            "its licence forbids fetching them for you: put them there, or name another folder in MARGINCONS_DATA."
        )
    return replace(_folder(folder, n, lazy), name=f"imagenet/{split}")


def _npz(path: Path, lazy: bool) -> Images:
    arrays = _arrays(path, "xy", lazy)
    pixels, labels = arrays["x"], arrays["y"]
    if pixels.ndim != 4 or labels.shape != (len(pixels),) or not pixels.size:
        raise FileFormatError(path, "x (n, c, h, w) and y (n,)", f"x {pixels.shape} and y {labels.shape}")
    if pixels.dtype.kind not in "buif" or labels.dtype.kind not in "ui":
        raise FileFormatError(path, "numbers x and whole numbers y", f"x of {pixels.dtype} and y of {labels.dtype}")
    _check_scale(path, pixels)
    return Images(
        inputs=_decoded(pixels, lazy),
        labels=torch.from_numpy(labels.astype(np.int64)),
        name=path.stem,
        decoding="divided by 255" if pixels.dtype == np.uint8 else "as stored",
    )


def _arrays(path: Path, names: str, lazy: bool) -> dict[str, np.ndarray | ArrayOnDisk]:
    """Arrays of an .npz by name, "x" or "xy"; where lazy x stays on disk if it is stored uncompressed."""
    wanted = {"x": "array x (images)", "xy": "arrays x (images) and y (labels)"}[names]
    if not path.is_file():
        raise MissingFileError(path, "file of images")
    check_npz(path, tuple(names))
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as stored:
            held = stored.files
            on_disk = ArrayOnDisk.within(path, "x") if lazy and "x" in held else None
            arrays = {} if on_disk is None else {"x": on_disk}
            arrays |= {name: stored[name] for name in names if name in held and name not in arrays}
    except DAMAGE as error:
        raise FileFormatError(path, "arrays x and y saved by numpy", f"{error}".strip() or "something else") from None
    if len(arrays) < len(names):
        raise FileFormatError(path, wanted, f"arrays {', '.join(held) or 'of no name'}")
    return arrays


def _folder(path: Path, n: int | None, lazy: bool) -> Images:
    """Images of one subfolder per class, in a fixed shuffled order, so that the first n are a fair sample."""
    if not path.is_dir():
        raise MissingFileError(path, "folder of images")
    from torchvision import datasets

    try:
        stored = datasets.ImageFolder(str(path))
    except FileNotFoundError as error:
        raise FileFormatError(
            path, "one subfolder of images per class", str(error).split(". ", maxsplit=1)[0]
        ) from None
    rows = np.random.default_rng(0).permutation(len(stored))
    inputs, decoding = decode_pictures([stored.samples[row][0] for row in rows], n=n)
    return Images(
        inputs=inputs if lazy else inputs.decode(np.arange(len(inputs))),
        labels=torch.tensor([stored.targets[row] for row in rows[: len(inputs)]]),
        name=path.name,
        decoding=decoding,
    )
