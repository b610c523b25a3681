"""Which device to measure on."""

import torch

from margincons.errors import UsageError


def choose_device(device: str) -> str:
    """Resolve "auto", and refuse "cuda" where there is none.

    Raises:
        UsageError: If CUDA is asked for and absent, or the name is not a device.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"Expected the device to be 'auto', 'cpu' or 'cuda', got {device!r}.")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("Expected a CUDA device, torch sees none; use device 'cpu', or 'auto' to take what is there.")
    return device
