"""Networks of one's own: `path/to/file.py:function` names a function without arguments that returns a module.

The file is executed, as running it would: name only files you trust.
"""

import hashlib
import importlib.util
from pathlib import Path

from torch import nn

from margincons.errors import MissingFileError, ShapeError, UnknownNameError


def load_user(model_id: str) -> nn.Module:
    """Execute the file and call the function.

    Raises:
        MissingFileError: If there is no such file.
        UnknownNameError: If the file defines no such function; the nearest names are offered.
        ShapeError: If the function does not return a torch module.
    """
    path, _, name = model_id.rpartition(":")
    if not Path(path).is_file():
        raise MissingFileError(path, "Python file with a network")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, name, None)):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UnknownNameError(f"function of {path}", name, known)
    model = getattr(module, name)()
    if not isinstance(model, nn.Module):
        raise ShapeError(f"what {model_id} returns", "a torch.nn.Module", type(model).__name__)
    return model.eval()


def state_sha256(model: nn.Module) -> str:
    """SHA-256 over names and values of a network's parameters and buffers, in order."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
