"""How the bundled networks were trained: one loop, and a loss of a few lines for each recipe.

Every loss is ``loss(model, inputs, labels, epsilon) -> Tensor``. Inner attacks are unverified, cheap, and start
from torch's global generator, which `train` seeds.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, one_hot, softmax
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from margincons.data import Images, load_images
from margincons.errors import UnknownNameError
from margincons.zoo.bundled import ARCHITECTURES, Rescaled

Loss = Callable[[nn.Module, Tensor, Tensor, float], Tensor]


def climb(objective: Callable[[Tensor], Tensor], inputs: Tensor, epsilon: float, steps: int = 10) -> Tensor:
    """Maximise an objective inside an l_inf ball by signed steps from a random start.

    Source: Madry et al., 2018, arXiv:1706.06083.

    Args:
        objective: Maps images (n, c, h, w) to a sum over the batch.
        inputs: Clean images (n, c, h, w) in [0, 1].
        epsilon: Radius on the [0, 1] pixel scale.
        steps: Number of steps, each of 2.5 epsilon / steps, at most 1.25 epsilon.
    """
    low, high = (inputs - epsilon).clamp(min=0), (inputs + epsilon).clamp(max=1)
    length = min(2.5 / steps, 1.25) * epsilon
    moved = (inputs + epsilon * (2 * torch.rand_like(inputs) - 1)).clamp(low, high)
    for _ in range(steps):
        moved.requires_grad_()
        (gradient,) = torch.autograd.grad(objective(moved), moved)
        moved = (moved.detach() + length * gradient.sign()).clamp(low, high)
    return moved


def hardest(model: nn.Module, inputs: Tensor, labels: Tensor, epsilon: float, steps: int = 10) -> Tensor:
    """Images of the ball with the largest cross-entropy that `climb` finds."""
    return climb(lambda moved: cross_entropy(model(moved), labels, reduction="sum"), inputs, epsilon, steps)


def standard(model: nn.Module, inputs: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Cross-entropy on clean images."""
    return cross_entropy(model(inputs), labels)


def gaussian(model: nn.Module, inputs: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Cross-entropy on images with Gaussian noise of standard deviation epsilon."""
    return cross_entropy(model((inputs + epsilon * torch.randn_like(inputs)).clamp(0, 1)), labels)


def fgsm_at(model: nn.Module, inputs: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Adversarial training with one step from a random start. Source: Wong et al., 2020, arXiv:2001.03994."""
    return cross_entropy(model(hardest(model, inputs, labels, epsilon, steps=1)), labels)


def pgd_at(model: nn.Module, inputs: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Adversarial training. Source: Madry et al., 2018, arXiv:1706.06083."""
    return cross_entropy(model(hardest(model, inputs, labels, epsilon)), labels)


def trades(model: nn.Module, inputs: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Clean loss plus the divergence that the ball allows. Source: Zhang et al., 2019, arXiv:1901.08573."""
    clean = model(inputs)
    target = softmax(clean, dim=1)
    moved = climb(
        lambda moved: kl_div(log_softmax(model(moved), dim=1), target.detach(), reduction="sum"), inputs, epsilon
    )
    return cross_entropy(clean, labels) + 6 * kl_div(log_softmax(model(moved), dim=1), target, reduction="batchmean")


def mart(model: nn.Module, inputs: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Boosted cross-entropy, and divergence weighted by doubt. Source: Wang et al., 2020, ICLR."""
    logits, clean = model(hardest(model, inputs, labels, epsilon)), softmax(model(inputs), dim=1)
    probabilities = softmax(logits, dim=1)
    rival = (probabilities - 2 * one_hot(labels, logits.shape[1])).amax(dim=1)
    boosted = cross_entropy(logits, labels) - (1 - rival).clamp_min(1e-6).log().mean()
    divergence = kl_div(log_softmax(logits, dim=1), clean, reduction="none").sum(dim=1)
    return boosted + 5 * (divergence * (1 - clean.gather(1, labels[:, None])[:, 0])).mean()


def alp(model: nn.Module, inputs: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Adversarial loss, adversarial logits held to the clean ones. Source: Kannan et al., 2018, arXiv:1803.06373."""
    logits = model(hardest(model, inputs, labels, epsilon))
    return cross_entropy(logits, labels) + 0.5 * (logits - model(inputs)).square().mean()


def clp(model: nn.Module, inputs: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Clean loss, adversarial logits held to the clean ones: the variant of robust-training code bases.

    Kannan et al. (2018) pair random clean images under that name, which gives little robustness.
    """
    clean = model(inputs)
    return cross_entropy(clean, labels) + 0.5 * (model(hardest(model, inputs, labels, epsilon)) - clean).square().mean()


def mma(model: nn.Module, inputs: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Maximise the margin itself, up to 2 epsilon: train where the boundary is met. Source: Ding et al., 2020, ICLR.

    The path to the hardest point of the large ball is cut by bisection where the decision changes; wrong images are
    trained as they are.
    """
    with torch.no_grad():
        right = model(inputs).argmax(dim=1) == labels
    far = hardest(model, inputs, labels, 2 * epsilon)
    low, high = torch.zeros(len(inputs), 1, 1, 1), torch.ones(len(inputs), 1, 1, 1)
    with torch.no_grad():
        for _ in range(8):
            middle = (low + high) / 2
            held = (model(inputs + middle * (far - inputs)).argmax(dim=1) == labels).view(-1, 1, 1, 1)
            low, high = torch.where(held, middle, low), torch.where(held, high, middle)
    boundary = torch.where(right.view(-1, 1, 1, 1), inputs + high * (far - inputs), inputs)
    return (cross_entropy(model(inputs), labels) + 2 * cross_entropy(model(boundary), labels)) / 3


def ibp(model: nn.Sequential, inputs: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Cross-entropy of the worst logits that interval arithmetic allows. Source: Gowal et al., 2018, arXiv:1810.12715.

    The interval's centre passes through each layer, its radius through the layer's absolute weights.
    """
    low, high = (inputs - epsilon).clamp(min=0), (inputs + epsilon).clamp(max=1)
    for layer in model:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            centre, radius = layer((low + high) / 2), _spread(layer, (high - low) / 2)
            low, high = centre - radius, centre + radius
        else:
            low, high = layer(low), layer(high)
    worst = torch.where(one_hot(labels, low.shape[1]).bool(), low, high)
    return (cross_entropy(model(inputs), labels) + cross_entropy(worst, labels)) / 2


def _spread(layer: nn.Module, radius: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return nn.functional.linear(radius, layer.weight.abs())
    return nn.functional.conv2d(radius, layer.weight.abs(), stride=layer.stride, padding=layer.padding)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one bundled network comes about."""

    loss: Loss
    architecture: str = "cnn"
    epsilon: float = 0.15  # radius trained against, on the [0, 1] pixel scale
    epochs: int = 80
    max_lr: float = 5e-3  # peak of the one-cycle schedule
    finish: Callable[[nn.Sequential], nn.Module] = lambda model: model  # what is done to the trained network
    finished_architecture: str = ""  # when finishing changes it


def _multiply_logits(model: nn.Sequential, factor: float = 100.0) -> nn.Sequential:
    """All logits times a hundred: every decision kept, the softmax saturated."""
    with torch.no_grad():
        model[-1].weight *= factor
        model[-1].bias *= factor
    return model


RECIPES = {
    "digits/standard": Recipe(loss=standard),
    "digits/gaussian": Recipe(loss=gaussian),
    "digits/fgsm_at": Recipe(loss=fgsm_at),
    "digits/pgd_at": Recipe(loss=pgd_at),
    "digits/trades": Recipe(loss=trades),
    "digits/mart": Recipe(loss=mart),
    "digits/alp": Recipe(loss=alp),
    "digits/clp": Recipe(loss=clp),
    "digits/mma": Recipe(loss=mma),
    "digits/ibp": Recipe(loss=ibp, epsilon=0.1, epochs=300, max_lr=3e-3),
    "digits/mlp": Recipe(loss=pgd_at, architecture="mlp"),
    "digits/rescaled": Recipe(loss=pgd_at, finish=Rescaled, finished_architecture="rescaled_cnn"),
    "digits/masked": Recipe(loss=standard, finish=_multiply_logits),
}


def one_epoch(
    model: nn.Module, images: Images, *, loss: Loss, epsilon: float, optimizer: Optimizer, schedule: LRScheduler
) -> None:
    """Step once for each batch of 64 images, in an order that torch's global generator draws."""
    for rows in torch.randperm(len(images)).split(64):
        value = loss(model, images.inputs[rows], images.labels[rows], epsilon)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()


def train(model_id: str, *, seed: int = 0, progress: bool = False) -> nn.Module:
    """Train a bundled network anew, on the 797 training images of digits.

    Args:
        model_id: A key of `RECIPES`.
        seed: Fixes the first weights, the order of images and the inner attacks.
        progress: Whether to draw a bar over epochs.

    Raises:
        UnknownNameError: If no recipe has that id.
    """
    if model_id not in RECIPES:
        raise UnknownNameError("recipe", model_id, RECIPES)
    return train_recipe(RECIPES[model_id], seed=seed, name=model_id if progress else "")


def train_recipe(recipe: Recipe, *, seed: int = 0, name: str = "") -> nn.Module:
    """Train a network as a recipe says, whether it has an id or not.

    Args:
        recipe: How.
        seed: Fixes the first weights, the order of images and the inner attacks.
        name: Stands before a bar over epochs; no bar without one.
    """
    images = load_images("digits", split="train")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ARCHITECTURES[recipe.architecture]()
        optimizer = torch.optim.Adam(model.parameters(), weight_decay=1e-4)
        batches = -(-len(images) // 64)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=recipe.max_lr, total_steps=recipe.epochs * batches
        )
        for epoch in tqdm(range(recipe.epochs), desc=name, disable=not name, file=sys.__stderr__):
            epsilon = recipe.epsilon * min(1.0, 2 * epoch / recipe.epochs)  # the whole radius from half-way on
            one_epoch(model, images, loss=recipe.loss, epsilon=epsilon, optimizer=optimizer, schedule=schedule)
    return recipe.finish(model.eval()).eval()
