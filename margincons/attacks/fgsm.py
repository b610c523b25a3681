"""The fast gradient sign method: one step to the edge of the ball."""

from torch import Tensor, nn

from margincons.attacks.result import AttackResult
from margincons.attacks.steps import input_gradient, steepest_step
from margincons.passes import in_eval_mode
from margincons.threat import ThreatModel, check_images


@in_eval_mode
def fgsm(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    norm: str = "Linf",
    loss: str = "cross_entropy",
) -> AttackResult:
    """Spend the whole budget on one step along the gradient of a loss.

    Source: Goodfellow et al., 2015, arXiv:1412.6572, section 4; here in any of the three norms.

    Args:
        model: Maps images (n, c, h, w) to logits (n, k); it normalises its own inputs.
        inputs: Images (n, c, h, w) on the [0, 1] pixel scale.
        labels: Classes to leave, (n,).
        epsilon: Radius of the ball on the [0, 1] pixel scale: 8/255, not 8.
        norm: "Linf", "L2" or "L1".
        loss: "cross_entropy", as the method is known, or "log_odds", which does not saturate.

    Raises:
        PixelRangeError: If an image leaves [0, 1].
        ShapeError: If there is not one label per image, as a whole number.
        LabelRangeError: If a label is no class of the network.
        UsageError: If epsilon cannot be meant.
    """
    check_images(inputs)
    threat = ThreatModel(norm=norm, epsilon=epsilon)
    step = steepest_step(input_gradient(model, inputs, labels, loss=loss), inputs, threat.epsilon, threat.norm)
    return AttackResult.judge(model, inputs, (inputs + step).clamp(0, 1), labels, norm=threat.norm)
