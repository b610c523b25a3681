"""A uniform view of any network: logits, features, and the last linear layer that joins them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from margincons.errors import NoHeadError, NonFiniteLogitsError, ShapeError
from margincons.threat import check_images

HEAD_TOLERANCE = 1e-4  # relative to the largest logit; fp32 sums over some thousand features stay well below


@dataclass(frozen=True, kw_only=True)
class Head:
    """The last linear layer: ``logits = features @ weight.T + bias``."""

    weight: Tensor  # (k, d)
    bias: Tensor  # (k,)

    def __call__(self, features: Tensor) -> Tensor:
        """Logits (n, k) of features (n, d)."""
        return features @ self.weight.T + self.bias


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What one forward pass gives, one row per image."""

    logits: Tensor  # (n, k)
    features: Tensor | None  # (n, d), input of the head; None where the network has none

    @property
    def predicted(self) -> Tensor:
        """Predicted class, (n,); the first of equals."""
        return self.logits.argmax(dim=1)


class Classifier:
    """Wrap any torch network without knowing its class.

    The head is not guessed from names: hooks watch an example batch pass through, the last module with a
    weight of one row per class is taken, and head(features) must equal the logits. A 1x1 convolution counts, its
    input averaged over positions.

    Args:
        model: Maps images (n, c, h, w) in [0, 1] to logits (n, k); put into eval mode here.
        example: A batch of images (n, c, h, w) to look for the head with; two are enough.

    Raises:
        PixelRangeError: If the example leaves [0, 1].
        ShapeError: If the network does not return logits (n, k).
        NonFiniteLogitsError: If a logit is NaN or infinite.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        check_images(example)
        self.model = model.eval()
        example = example[:8].to(self.device)
        self.head: Head | None = None
        self.no_head_reason = ""
        self._head_module: nn.Module | None = None
        self._find_head(example)

    @property
    def device(self) -> torch.device:
        """Device of the first parameter or buffer; the CPU for a network that has none."""
        tensors = (*self.model.parameters(), *self.model.buffers())
        return tensors[0].device if tensors else torch.device("cpu")

    @torch.no_grad()
    def __call__(self, inputs: Tensor, *, batch_size: int = 256) -> Outputs:
        """Logits, and features where there is a head, of images (n, c, h, w) in [0, 1].

        Raises:
            PixelRangeError: If a pixel leaves [0, 1].
            NonFiniteLogitsError: If a logit is NaN or infinite.
        """
        check_images(inputs)
        logits, features = [], []
        for part in inputs.split(batch_size):
            with self._watch_head() as seen:
                logits.append(self._checked_logits(part.to(self.device)))
            if self.head is not None:
                features.append(_pooled(seen[-1]))
        return Outputs(logits=torch.cat(logits), features=torch.cat(features) if features else None)

    def logits(self, inputs: Tensor, *, batch_size: int = 256) -> Tensor:
        """Logits (n, k) of images (n, c, h, w) in [0, 1]."""
        return self(inputs, batch_size=batch_size).logits

    def features(self, inputs: Tensor, *, batch_size: int = 256) -> Tensor:
        """Features (n, d), the input of the last linear layer.

        Raises:
            NoHeadError: If the network does not end in a linear layer.
        """
        features = self(inputs, batch_size=batch_size).features
        if features is None:
            raise NoHeadError(self.no_head_reason)
        return features

    def _checked_logits(self, inputs: Tensor) -> Tensor:
        logits = self.model(inputs)
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(inputs):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ShapeError("the network's output", "logits (n, k)", got)
        broken = (~logits.isfinite()).any(dim=1)
        if broken.any():
            raise NonFiniteLogitsError(int(broken.sum()), len(logits))
        return logits

    @contextmanager
    def _watch_head(self) -> Iterator[list[Tensor]]:
        seen: list[Tensor] = []
        hook = None
        if self._head_module is not None:
            hook = self._head_module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            yield seen
        finally:
            if hook is not None:
                hook.remove()

    @torch.no_grad()
    def _find_head(self, example: Tensor) -> None:
        calls: list[tuple[nn.Module, Tensor]] = []
        hooks = [
            module.register_forward_pre_hook(lambda module, inputs: calls.append((module, inputs[0])))
            for module in self.model.modules()
            if _could_be_head(module)
        ]
        try:
            logits = self._checked_logits(example)
        finally:
            for hook in hooks:
                hook.remove()
        calls = [(module, inputs) for module, inputs in calls if module.weight.shape[0] == logits.shape[1]]
        if not calls:
            self.no_head_reason = f"no layer that was used has one row of weights for each of {logits.shape[1]} classes"
            return
        module, inputs = calls[-1]
        weight = module.weight.detach().flatten(1)
        bias = getattr(module, "bias", None)
        head = Head(weight=weight, bias=weight.new_zeros(len(weight)) if bias is None else bias.detach())
        features = _pooled(inputs)
        error = torch.inf
        if features.dim() == 2 and features.shape[1] == weight.shape[1]:
            error = ((head(features) - logits).abs().max() / logits.abs().max().clamp_min(1e-12)).item()
        if error > HEAD_TOLERANCE:
            name = next(name for name, candidate in self.model.named_modules() if candidate is module)
            self.no_head_reason = f"its last linear layer {name!r} gives {_percent(error)} other values than the logits"
            return
        self.head, self._head_module = head, module


def _could_be_head(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return False
    return weight.dim() == 2 or (weight.dim() == 4 and weight.shape[2:] == (1, 1))


def _pooled(features: Tensor) -> Tensor:
    """A layer that is applied at every position and averaged equals the same layer on averaged features."""
    return features.mean(dim=(2, 3)) if features.dim() == 4 else features


def _percent(error: float) -> str:
    return f"{100 * error:.2g}%" if error < torch.inf else "wholly"
