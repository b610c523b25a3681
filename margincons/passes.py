"""Counting what an attack costs: forward and backward passes, seen from the network's side."""

import functools
import numbers
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from margincons.errors import UsageError


class CountPasses(nn.Module):
    """A network that counts the images passed through it, forward and backward.

    An attack cannot know that it is being counted, so the count does not rest on its word.

    Args:
        model: Any network from images (n, c, h, w) to logits (n, k).

    Attributes:
        forward_images: Images seen by a forward pass of the search so far.
        backward_images: Images seen by a backward pass so far; k passes for k classes count k times.
        verification_images: Images seen by a forward pass inside `verification`, counted apart.
    """

    def __init__(self, model: nn.Module) -> None:
        """Start both counts at zero."""
        super().__init__()
        self.model = model
        self.forward_images = 0
        self.backward_images = 0
        self.verification_images = 0
        self._verifying = False
        self.train(model.training)

    def forward(self, inputs: Tensor) -> Tensor:
        """Pass images through the network and count them."""
        counts = self.__dict__  # setting an attribute of a module takes as long as a layer of a small network
        if self._verifying:
            counts["verification_images"] += len(inputs)
            return getattr(self.model, "recalled", self.model)(inputs)  # see `margincons.recall`
        counts["forward_images"] += len(inputs)
        logits = self.model(inputs)
        if logits.requires_grad:
            logits.register_hook(self._count_backward)
        return logits

    def _count_backward(self, gradient: Tensor) -> None:
        self.__dict__["backward_images"] += len(gradient)


def check_batch_size(batch_size: int) -> None:
    """Raise `UsageError` unless a batch holds one image or more."""
    if not isinstance(batch_size, numbers.Integral) or batch_size < 1:
        raise UsageError(f"Expected a batch size of one image or more, got {batch_size!r}.")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network into eval mode, and each of its modules back into its own mode afterwards.

    Raises:
        UsageError: If it is no network, but its name, say.
    """
    if not isinstance(model, nn.Module):
        got = f"the {type(model).__name__} {model!r:.60}"
        raise UsageError(f"Expected a network, a torch.nn.Module, got {got}; load_model gives the one of a name.")
    modes = [(module, module.training) for module in model.modules()]
    if any(training for _, training in modes):
        model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            if module.training != training:
                module.training = training


def in_eval_mode(function: Callable) -> Callable:
    """Run a function of a network in eval mode: a pass in training mode would change the network that it is about."""

    @functools.wraps(function)
    def run(model: nn.Module, *arguments: object, **options: object) -> object:
        with evaluating(model):
            return function(model, *arguments, **options)

    return run


@contextmanager
def verification(model: nn.Module) -> Iterator[None]:
    """Count the passes made in here as verification, not as search; a network that does not count is left alone."""
    counting = isinstance(model, CountPasses)
    if counting:
        before, model._verifying = model._verifying, True
    try:
        yield
    finally:
        if counting:
            model._verifying = before
