"""How a result that holds tensors shows itself in a terminal: by their shapes, for their values would fill it."""

import reprlib
from dataclasses import fields

from torch import Tensor


class Brief:
    """Base of dataclasses made with ``repr=False``: a tensor is shown as its shape and kind, a long list is cut."""

    def __repr__(self) -> str:
        """One line, field by field."""
        held = ", ".join(f"{field.name}={_brief(getattr(self, field.name))}" for field in fields(self))
        return f"{type(self).__name__}({held})"


def _brief(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return reprlib.repr(value) if isinstance(value, list) else repr(value)
