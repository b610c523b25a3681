"""How steep the loss is at an image: one backward pass."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from margincons.passes import in_eval_mode
from margincons.threat import check_images, dual_norm, vector_norm


@in_eval_mode
def gradient_norm(model: nn.Module, inputs: Tensor, *, norm: str) -> Tensor:
    """Dual norm of the input gradient of the cross-entropy at the predicted class: what a small step can add to it.

    It vanishes where the softmax saturates: in fp32 some logits are large enough for a gradient of exactly 0.

    Source: the input gradient that Ross and Doshi-Velez, 2018, arXiv:1711.09404, regularise; to the first order
    epsilon times this norm is what FGSM gains.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k).
        inputs: Images (n, c, h, w) on the [0, 1] pixel scale; one batch.
        norm: "Linf", "L2" or "L1", of the perturbation; its dual measures the gradient.

    Returns:
        One norm per image, (n,), in nats per unit of ``norm``.

    Raises:
        PixelRangeError: If an image leaves [0, 1].
    """
    check_images(inputs)
    with torch.enable_grad():
        inputs = inputs.detach().requires_grad_()
        logits = model(inputs)
        loss = cross_entropy(logits, logits.detach().argmax(dim=1), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, inputs)
    return vector_norm(gradient, dual_norm(norm))
