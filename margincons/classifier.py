"""A uniform view of any network: logits, features, and the last linear layer that joins them."""

import itertools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from margincons.brief import Brief
from margincons.errors import (
    BatchMemoryError,
    ForwardError,
    InPlaceError,
    MarginError,
    NoHeadError,
    NonFiniteLogitsError,
    ShapeError,
)
from margincons.passes import check_batch_size, evaluating
from margincons.threat import check_images

HEAD_TOLERANCE = 1e-4  # relative to the largest logit; fp32 sums over some thousand features stay well below


@dataclass(frozen=True, kw_only=True, repr=False)
class Head(Brief):
    """The last linear layer: ``logits = features @ weight.T + bias``."""

    weight: Tensor  # (k, d)
    bias: Tensor  # (k,)

    def __call__(self, features: Tensor) -> Tensor:
        """Logits (n, k) of features (n, d)."""
        return features @ self.weight.T + self.bias


@dataclass(frozen=True, kw_only=True, repr=False)
class Outputs(Brief):
    """What one forward pass gives, one row per image."""

    logits: Tensor  # (n, k)
    features: Tensor | None  # (n, d), input of the head; None where the network has none

    @property
    def predicted(self) -> Tensor:
        """Predicted class, (n,); the first of equals."""
        return self.logits.argmax(dim=1)


class Classifier:
    """Wrap any torch network without knowing its class.

    The head is not guessed from names: hooks watch an example batch pass through, and of the modules with a
    weight of one row per class the last is taken for which head(features) equals the logits. A 1x1 convolution
    counts, its input averaged over positions; so does a layer applied to every token.

    Args:
        model: Maps images (n, c, h, w) in [0, 1] to logits (n, k); put into eval mode here.
        example: A batch of images (n, c, h, w) to look for the head with; two are enough.

    Raises:
        PixelRangeError: If the example leaves [0, 1].
        ShapeError: If the network cannot take such images, or does not return logits (n, k).
        InPlaceError: If it writes into its images.
        ForwardError: If its own code fails in another way.
        NonFiniteLogitsError: If a logit is NaN or infinite.
        BatchMemoryError: If the device's memory runs out.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        check_images(example)
        if not len(example):
            raise ShapeError("the example", "one image or more", "none")
        self.model = model.eval()
        example = example[:8].to(self.device)
        self.head: Head | None = None
        self.no_head_reason = ""
        self._head_module: nn.Module | None = None
        self._head_call = -1  # which of its calls gives the logits, counted from the last
        self._find_head(example)

    @property
    def device(self) -> torch.device:
        """Device of the first parameter or buffer; the CPU for a network that has none."""
        first = next(itertools.chain(self.model.parameters(), self.model.buffers()), None)
        return torch.device("cpu") if first is None else first.device

    @torch.no_grad()
    def __call__(self, inputs: Tensor, *, batch_size: int = 256) -> Outputs:
        """Logits, and features where there is a head, of images (n, c, h, w) in [0, 1], in any floating-point format.

        The pass is made in eval mode, and each of the network's modules is in its own mode again afterwards.

        Raises:
            PixelRangeError: If a pixel leaves [0, 1].
            NonFiniteLogitsError: If a logit is NaN or infinite.
            UsageError: If the batch size cannot be meant.
        """
        check_images(inputs)
        check_batch_size(batch_size)
        logits, features = [], []
        with evaluating(self.model):
            for part in inputs.split(batch_size):
                outputs = self.pass_through(as_taken(part, self.model))
                logits.append(check_logits(outputs.logits, len(part)))
                features.append(outputs.features)
        return Outputs(logits=torch.cat(logits), features=None if self.head is None else torch.cat(features))

    def pass_through(self, inputs: Tensor, *, features: bool = True) -> Outputs:
        """Outputs of one batch (n, c, h, w), `as_taken` by the network and in the mode it is in: nothing is checked.

        Without features nothing is hooked.
        """
        if not features or self.head is None:
            return Outputs(logits=self.model(inputs), features=None)
        seen: list[Tensor] = []
        hook = _on_call(self._head_module, lambda _, inputs: seen.append(inputs))
        try:
            logits = self.model(inputs)
        finally:
            hook.remove()
        return Outputs(logits=logits, features=_pooled(seen[self._head_call]))

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

    @torch.no_grad()
    def _find_head(self, example: Tensor) -> None:
        calls: list[tuple[nn.Module, Tensor]] = []
        hidden = {inner for module in self.model.modules() if _is_compiled(module) for inner in module.modules()}
        watched = [module for module in self.model.modules() if _has_matrix(module) and module not in hidden]
        hooks = [_on_call(module, lambda *call: calls.append(call)) for module in watched]
        try:
            logits = first_logits(self.model, example)
        except torch.OutOfMemoryError as error:
            raise BatchMemoryError(str(self.device), " ".join(str(error).split())) from error
        finally:
            for hook in hooks:
                hook.remove()
        calls = [(module, inputs) for module, inputs in calls if module.weight.shape[0] == logits.shape[1]]
        for number, (module, inputs) in reversed(list(enumerate(calls))):
            head = _head_of(module)
            if _error(head, inputs, logits) <= HEAD_TOLERANCE:
                self.head, self._head_module = head, module
                self._head_call = -sum(later is module for later, _ in calls[number:])
                return
        if not calls:
            lacking = f"no layer that was used has one row of weights for each of {logits.shape[1]} classes"
            self.no_head_reason = "a compiled network does not show what passes its layers" if hidden else lacking
            return
        module, inputs = calls[-1]
        name = next(name for name, candidate in self.model.named_modules() if candidate is module)
        error = _error(_head_of(module), inputs, logits)
        by = f" by {100 * error:.2g}% of the largest" if error < torch.inf else ""
        self.no_head_reason = f"what its last linear layer {name!r} gives differs from the logits{by}"


def as_taken(inputs: Tensor, model: nn.Module) -> Tensor:
    """Images on the device and in the number format of a network's first real parameter or buffer, if it has one."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return inputs.to(next((one for one in tensors if one.is_floating_point()), inputs))


def check_logits(logits: Tensor, n: int) -> Tensor:
    """Return what a network gave for n images, where it is finite logits (n, k) of two classes or more.

    Raises:
        ShapeError: If it is something else.
        NonFiniteLogitsError: If a logit is NaN or infinite.
    """
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != n:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if hasattr(logits, "logits"):
            got += "; wrap the network in a module whose forward returns its .logits"
        raise ShapeError("the network's output", "logits (n, k)", got)
    if logits.shape[1] < 2:
        got = f"{tuple(logits.shape)}; where one logit decides by its sign, give the other class the logit 0"
        raise ShapeError("the network's output", "logits (n, k) of two classes or more", got)
    broken = (~logits.isfinite()).any(dim=1)
    if broken.any():
        raise NonFiniteLogitsError(int(broken.sum()), len(logits))
    return logits


@torch.no_grad()
def first_logits(model: nn.Module, inputs: Tensor) -> Tensor:
    """Logits (n, k) of images (n, c, h, w): a first pass, in which whatever fails is named.

    Raises:
        ShapeError: If the network cannot take such images, or does not return logits (n, k).
        InPlaceError: If it writes into its images.
        ForwardError: If its own code fails in another way.
        NonFiniteLogitsError: If a logit is NaN or infinite.
    """
    given = inputs.clone()
    try:
        logits = check_logits(model(given), len(inputs))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # torch's own, of shapes that do not fit; ours are no RuntimeErrors
        reason = f"{tuple(inputs.shape)}: {' '.join(str(error).split())[:200]}{_likely_misfit(model, inputs)}"
        raise ShapeError("the images", "what the network takes", reason) from error
    except Exception as error:  # a user's network may raise anything; it is named, never swallowed
        if isinstance(error, MarginError):
            raise
        raise ForwardError(tuple(inputs.shape), error) from error
    if not torch.equal(given, inputs):
        raise InPlaceError
    return logits


def _likely_misfit(model: nn.Module, inputs: Tensor) -> str:
    weights = next((value.dtype for value in model.parameters() if value.is_floating_point()), inputs.dtype)
    if weights != inputs.dtype:
        return f"; the images are {inputs.dtype}, its weights {weights}: convert one of them"
    with suppress(Exception):  # a user's network may raise anything
        if inputs.shape[1] == 3:
            check_logits(model(inputs[:, :1].clone()), len(inputs))
            return "; it takes one channel: a folder's pictures are read in three, store grey ones in an .npz"
    return ""


def _on_call(module: nn.Module, note: Callable[[nn.Module, Tensor], None]) -> RemovableHandle:
    """Hook a module so that each call notes its first tensor, given by place or by name."""

    def hook(module: nn.Module, inputs: tuple, named: dict) -> None:
        given = (*inputs, *named.values())
        tensors = [value for value in given if isinstance(value, Tensor) and value.is_floating_point()]
        if tensors:
            note(module, tensors[0])

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _is_compiled(module: nn.Module) -> bool:
    """Whether hooks are refused, never called, or those of the first call kept: by TorchScript or torch.compile."""
    compiled = hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None
    return compiled or isinstance(module, torch.jit.ScriptModule)


def _has_matrix(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return False
    return weight.dim() == 2 or (weight.dim() == 4 and weight.shape[2:] == (1, 1))


def _head_of(module: nn.Module) -> Head:
    weight, bias = module.weight.detach().flatten(1), getattr(module, "bias", None)
    bias = bias.detach().flatten() if isinstance(bias, Tensor) else weight.new_zeros(len(weight))
    return Head(weight=weight, bias=bias)


def _error(head: Head, inputs: Tensor, logits: Tensor) -> float:
    """Largest difference between head(features) and the logits, relative to the largest logit."""
    features = _pooled(inputs)
    if features.shape != (len(logits), head.weight.shape[1]) or head.bias.shape != (len(head.weight),):
        return torch.inf
    return ((head(features) - logits).abs().max() / logits.abs().max().clamp_min(1e-12)).item()


def _pooled(features: Tensor) -> Tensor:
    """A layer that is applied at every position and averaged equals the same layer on averaged features."""
    if features.dim() == 3:
        return features.mean(dim=1)
    return features.mean(dim=(2, 3)) if features.dim() == 4 else features
