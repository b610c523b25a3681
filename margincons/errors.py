"""Every error that margincons raises on purpose.

A message is one line: what was expected, what came, the likely cause. The command line prints it and exits with 2.
"""

import difflib
import math
from collections.abc import Iterable
from pathlib import Path


class MarginError(Exception):
    """Base class: anything margincons refuses to do."""


class PixelRangeError(MarginError):
    """Images are not on the [0, 1] pixel scale."""

    def __init__(self, low: float, high: float) -> None:
        """Name the range that came and the factor it suggests."""
        super().__init__(f"Expected images in [0, 1], got [{low:g}, {high:g}]; {_likely_scale(low, high)}.")


class ShapeError(MarginError):
    """A tensor or array does not have the shape or type that is needed."""

    def __init__(self, what: str, expected: str, got: object) -> None:
        """Name the object, what it should be and what it is."""
        super().__init__(f"Expected {what} to be {expected}, got {got}.")


class UnknownNameError(MarginError):
    """A name that is not among those known; the nearest known ones are offered."""

    def __init__(self, kind: str, got: object, known: Iterable[str]) -> None:
        """Name the kind of thing, the name that came, and the nearest names that exist."""
        known = list(known)
        near = difflib.get_close_matches(str(got), known, n=3, cutoff=0.4) or known[:8]
        more = "" if len(near) == len(known) else f" (of {len(known)})"
        offer = f"the nearest are: {', '.join(near)}{more}" if near else "there is none"
        super().__init__(f"Unknown {kind} {got!r}; {offer}.")


class MissingFileError(MarginError):
    """A file or folder that was named does not exist."""

    def __init__(self, path: str | Path, what: str = "file") -> None:
        """Name the path and what was looked for."""
        super().__init__(f"Expected a {what} at {path}, found none; is the path right?")


class FileFormatError(MarginError):
    """A file exists but does not hold what it should."""

    def __init__(self, path: str | Path, expected: str, got: str) -> None:
        """Name the file, what it should hold and what it holds."""
        super().__init__(f"Expected {path} to hold {expected}, got {got.rstrip('.')}.")


class ChecksumError(MarginError):
    """A file's content is not the content that was recorded."""

    def __init__(self, path: str | Path, expected: str, got: str) -> None:
        """Name the file and both digests."""
        super().__init__(
            f"Expected {path} to have SHA-256 {expected[:16]}..., got {got[:16]}...; damaged, or another version?"
        )


class NoHeadError(MarginError):
    """A network's logits are not a linear layer applied to features."""

    def __init__(self, reason: str) -> None:
        """Say why no head was found."""
        super().__init__(
            f"Expected a network that ends in a linear layer, but {reason}; "
            "features are unavailable, everything that needs only logits still works."
        )


class LabelRangeError(MarginError):
    """A label is no class of the network."""

    def __init__(self, low: int, high: int, classes: int) -> None:
        """Name the labels that came and those that the network knows."""
        cause = "do they count from 1" if low == 1 and high == classes else "is the network trained for these images"
        super().__init__(
            f"Expected labels 0 to {classes - 1}, one per logit of the network, got {low} to {high}; {cause}?"
        )


class ClassesError(MarginError):
    """A network and a data set do not have the same number of classes."""

    def __init__(self, dataset: str, expected: int, got: int) -> None:
        """Name the data set, its number of classes and the network's number of logits."""
        super().__init__(
            f"Expected a network with {expected} logits for {dataset}, got {got}; was it trained for other images?"
        )


class NonFiniteLogitsError(MarginError):
    """A network returned NaN or infinity."""

    def __init__(self, count: int, total: int) -> None:
        """Count the images whose logits are not finite."""
        super().__init__(
            f"Expected finite logits, got NaN or infinity on {count} of {total} images; "
            "are the weights trained and the inputs in [0, 1]?"
        )


class ForwardError(MarginError):
    """A network's own code failed in a forward pass."""

    def __init__(self, shape: tuple[int, ...], error: Exception) -> None:
        """Name the images that were passed and what went wrong in the network."""
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        super().__init__(f"Expected a network that maps images {shape} to logits, its forward pass failed: {reason}.")


class InPlaceError(MarginError):
    """A network writes into the images that it is given."""

    def __init__(self) -> None:
        """Say what would mend it."""
        super().__init__(
            "Expected a network that leaves its images as they are, its forward pass changed them in place; "
            "clone them first, or use inplace=False in its first layers."
        )


class NoGradientError(MarginError):
    """A network cannot be differentiated with respect to its images."""

    def __init__(self, reason: str) -> None:
        """Say what stood in the way."""
        super().__init__(
            f"Expected logits that can be differentiated with respect to the images, but {reason}; does the network "
            "detach them, leave torch for numpy, run under no_grad, or change them in place?"
        )


class DegenerateError(MarginError):
    """A statistic is not defined on this sample."""

    def __init__(self, statistic: str, reason: str) -> None:
        """Name the statistic and what is missing."""
        super().__init__(f"{statistic} is not defined here: {reason}.")


class MissingColumnError(MarginError):
    """A table lacks a column that was asked for."""

    def __init__(self, column: str, present: Iterable[str]) -> None:
        """Name the column and those that are present."""
        super().__init__(f"Expected a column {column!r}, the table has: {', '.join(present)}.")


class RecordError(MarginError):
    """A record on disk does not match what is being asked of it."""


class LockedError(RecordError):
    """Somebody else is writing a record."""

    def __init__(self, folder: str | Path, holder: dict[str, str | int]) -> None:
        """Name the record and who holds it."""
        known = dict.fromkeys(("pid", "host", "since", "command"), "?") | holder
        who = "process {pid} on {host}, since {since} ({command})".format_map(known)
        super().__init__(
            f"Expected to be the only writer of {folder}, it is held by {who}; "
            "wait for it or stop it: what it leaves is resumed."
        )


class BatchMemoryError(MarginError):
    """Not even one image fits into memory."""

    def __init__(self, device: str, reason: str) -> None:
        """Name the device and what it said."""
        super().__init__(
            f"Expected one image at a time to fit into the memory of {device}, got {reason[:200]}; "
            "does something else fill it?"
        )


class ClusterError(MarginError):
    """A Dask cluster cannot be reached, or gave up on a shard."""


class DownloadError(MarginError):
    """Something would have to be downloaded, or could not be."""


class UsageError(MarginError):
    """Options that do not go together, or a value that cannot be meant."""


class PageError(MarginError):
    """A page of the book failed while it was executed."""


class LeakageError(MarginError):
    """Something would be learned from the images that it is judged on."""

    def __init__(self, data: str) -> None:
        """Name the images that came."""
        super().__init__(
            "Expected margins of training or calibration images to learn from, "
            f"got those of {data or 'images that the table does not name'}; "
            'measure a record with split="train", or of a file of your own named train.npz.'
        )


class SharedImagesError(MarginError):
    """A detector would be calibrated on images that its score was fitted on."""

    def __init__(self, shared: int, total: int, learned: str) -> None:
        """Count the images that are in both sets, and name the set that the score was fitted on."""
        super().__init__(
            f"Expected calibration images that the score was not fitted on, {shared} of {total} are among those of "
            f"{learned} that it was; it orders those better than new ones: calibrate on others."
        )


class TooFewImagesError(MarginError):
    """There are too few calibration images of a class for the rate that is to be promised."""

    def __init__(self, what: str, got: int, needed: int, rate: float) -> None:
        """Name the class of images, how many came, how many are needed, and the least rate that they can promise."""
        least = math.ceil(1000 / (got + 1)) / 1000
        offer = f", or a rate of {least:g} or more." if got else "; or is epsilon in another unit than the margins?"
        super().__init__(
            f"Expected at least {needed} {what} images to promise a rate of {rate:g}, got {got}; "
            f"with fewer only a threshold that lets none of them pass would do: take more images{offer}"
        )


class OtherNetworkError(MarginError):
    """A detector meets a network that it was not calibrated on."""

    def __init__(self, path: str | Path, reason: str) -> None:
        """Name the detector and what differs."""
        super().__init__(
            f"Expected the network that {path} was calibrated on, got another: {reason}; "
            "a threshold holds for one network: load that network, or calibrate a detector for this one."
        )


class MissingExtraError(MarginError):
    """Packages of an optional extra are not installed."""

    def __init__(self, extra: str, what: str, missing: str) -> None:
        """Name the extra, what it is for and the package that was looked for."""
        super().__init__(f'Expected the extra {extra!r} for {what}, {missing} is missing: pip install -e ".[{extra}]".')


class ExportError(MarginError):
    """A network cannot be written in another format."""

    def __init__(self, reason: str) -> None:
        """Say what the exporter said."""
        super().__init__(f"Expected a network that torch can export to ONNX for any number of images, but: {reason}.")


class UnsupportedLayerError(MarginError):
    """A network holds a layer that no certificate here can reason about."""

    def __init__(self, layer: str, reason: str) -> None:
        """Name the layer and why it cannot be read."""
        super().__init__(
            "Expected a network of linear, convolution, average pooling, batch normalisation, flattening, ReLU and "
            f"residual layers, got {layer}: {reason}; attacks and scores still work."
        )


class WrongAnswerError(MarginError):
    """A student's function is not right yet."""

    def __init__(self, reason: str) -> None:
        """Say what is likely wrong; the answer stays hidden."""
        super().__init__(f"Not yet: {reason}.")

    def _render_traceback_(self) -> list[str]:
        """Show notebooks the one line that helps; IPython asks for it."""
        return [str(self)]


def _likely_scale(low: float, high: float) -> str:
    if math.isnan(low + high):
        return "NaN came in, so the images were damaged before they got here"
    if low >= -0.1 and high <= 1.1:
        return "they leave the box slightly: clamp them"
    if low < 0:
        return "they look mean-normalised: a network here normalises its own inputs"
    for factor in (16, 255, 65535):
        if 1.5 < high <= factor:
            return f"divide by {factor}"
    return "rescale them to [0, 1]"
