"""Networks of one's own: `path/to/file.py:function` names a function without arguments that returns a module.

The file is executed, as running it would: name only files you trust.
"""

import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from margincons.errors import FileFormatError, MissingFileError, ShapeError, UnknownNameError


def load_user(model_id: str) -> nn.Module:
    """Execute the file and call the function.

    Raises:
        MissingFileError: If there is no such file.
        UnknownNameError: If the file defines no such function; the nearest names are offered.
        FileFormatError: If the file or the function fails.
        ShapeError: If the function does not return a torch module.
    """
    path, _, name = model_id.rpartition(":") if ".py:" in model_id else (model_id, ":", "")
    if not Path(path).is_file():
        raise MissingFileError(path, "Python file with a network")
    spec = importlib.util.spec_from_file_location(f"margincons_user_{Path(path).stem}", path)
    module = importlib.util.module_from_spec(spec)
    with _as_if_run(module, Path(path)):
        spec.loader.exec_module(module)
    if not callable(getattr(module, name, None)):
        known = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
        raise UnknownNameError(f"function of {path}", name, [key for key in known if not key.startswith("_")])
    with _as_if_run(module, Path(path)):
        model = getattr(module, name)()
    if not isinstance(model, nn.Module):
        raise ShapeError(f"what {model_id} returns", "a torch.nn.Module", type(model).__name__)
    return model.eval()


@contextmanager
def _as_if_run(module: ModuleType, path: Path) -> Iterator[None]:
    """Let the file import its neighbours, as running it would; say in one line what fails in it."""
    sys.modules[module.__name__] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        yield
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise FileFormatError(path, "code that runs and loads what it names", reason) from error
    finally:
        sys.path.remove(str(path.parent.resolve()))


def state_sha256(model: nn.Module) -> str:
    """SHA-256 over names and values of a network's parameters and buffers, in order."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
