"""The zoo: every network by one id, wherever it comes from.

`digits/<recipe>` is bundled, `robustbench/<dataset>/<norm>/<model>` is downloaded when asked for, and
`path/to/file.py:function` is one's own.
"""

from pathlib import Path

from torch import nn

from margincons.data import may_download
from margincons.errors import UnknownNameError, UsageError
from margincons.zoo.bundled import bundled_index, load_bundled
from margincons.zoo.user import load_user, state_sha256

__all__ = ["list_models", "load_model", "state_sha256"]


def list_models(prefix: str = "") -> list[str]:
    """Ids that `load_model` knows and that start with ``prefix``: the bundled ones, then RobustBench's."""
    from margincons.zoo.robustbench import list_robustbench

    return [model_id for model_id in [*bundled_index(), *list_robustbench()] if model_id.startswith(prefix)]


def load_model(model_id: str | Path, *, download: bool = False) -> nn.Module:
    """Load a network by its id.

    Args:
        model_id: `digits/<recipe>`, `robustbench/<dataset>/<norm>/<model>`, or `path/to/file.py:function`; as text, or
            as a `Path` of these parts.
        download: Whether a RobustBench checkpoint may be downloaded when it is not on disk; see `may_download`.

    Returns:
        An eval-mode torch module from images (n, c, h, w) in [0, 1] to logits (n, k).

    Raises:
        UnknownNameError: If no network has that id; the nearest ids are named.
        MissingFileError: If a file of one's own does not exist.
        UsageError: If it names weights without a network.
        DownloadError: If a checkpoint is not on disk and may not be downloaded.
    """
    model_id = str(model_id)
    if ".py:" in model_id or model_id.endswith(".py"):
        return load_user(model_id)
    if model_id in bundled_index():
        return load_bundled(model_id)
    if model_id.startswith("robustbench/"):
        from margincons.zoo.robustbench import load_robustbench

        return load_robustbench(model_id, download=may_download(download))
    if model_id.endswith((".pt", ".pth", ".ckpt", ".pkl", ".safetensors")):
        raise UsageError(
            f"Expected a network, got the file of weights {model_id}; name a function that builds the network and "
            "loads them, with torch.load(..., weights_only=True): path/to/file.py:function."
        )
    known = list_models() if "/" in model_id and not model_id.startswith("digits/") else bundled_index()
    raise UnknownNameError("model", model_id, known)
