"""Every warning that margincons gives on purpose: the work goes on, and the record keeps it by name.

An error says that a measurement would be wrong; a caution says what to read it with.
"""

from collections.abc import Mapping, Sequence
from typing import Any


class Caution(UserWarning):
    """Base class: what was seen, and what it means for a measurement."""

    advice = "read the measurement with care"

    def __init__(self, seen: str) -> None:
        """Say what was seen, without the full stop."""
        super().__init__(seen)

    def __str__(self) -> str:
        """One line: what was seen, and what it means."""
        return f"{self.args[0]}; {self.advice}{'' if self.advice.endswith('?') else '.'}"


class RandomisedWarning(Caution):
    """The same images give other logits in a second pass."""

    advice = (
        "fix the network's randomness: each score is that of one draw, and no bound counts where two draws disagree, "
        "so that images seem robust that are not"
    )


class BatchDependentWarning(Caution):
    """The logits of an image change with the images beside it."""

    advice = "does a layer use the statistics of its batch? Then no margin is that of an image alone"


class TrainingModeWarning(Caution):
    """Parts of the network stay in training mode."""

    advice = "does it override train()? Dropout stays random then, and measuring changes batch statistics"


class DynamicWarning(Caution):
    """The network computes gradients inside its own forward pass."""

    advice = "attacks may fail to differentiate through it: every bound holds, but it may be loose"


class ProbabilitiesWarning(Caution):
    """The network returns probabilities where logits are expected."""

    advice = "leave out the last softmax or sigmoid: gradients vanish in it, and logit margins become those of p"


class VanishingGradientsWarning(Caution):
    """The gradient that the attack climbs is zero, or as good as zero, on some images."""

    advice = "an attack has nothing to climb there: compare its bounds with those of another attack"


class MaskedGradientsWarning(Caution):
    """A search without gradients found what attacks with gradients had missed."""

    advice = "gradients mislead the attacks on this network: its robust accuracy may be lower still"


class NoHeadWarning(Caution):
    """The network has no last linear layer, as an ensemble has none."""

    advice = "the record has no feature margins and no feature distances; everything else is measured"


class ChanceAccuracyWarning(Caution):
    """The network is not right more often than guessing would be."""

    advice = "do labels count the classes in the network's order, and are the images what it was trained on?"


class NoRobustImagesWarning(Caution):
    """A detector is calibrated on images that are brittle one and all."""

    advice = "nothing shows what may pass: is epsilon too large, or in another unit than the margins?"


class FlagsAllWarning(Caution):
    """A calibrated threshold flags the robust calibration images, too, all of them."""

    advice = "it vouches for nothing: does the score know anything of these margins? Try another, or allow more misses"


class TransparencyWarning(Caution):
    """Pictures have an alpha channel, which no network here sees."""

    advice = "their colours are read as if opaque: lay them on the background that they are meant for, if some are not"


def remembered(tables: Mapping[str, Any]) -> list[str]:
    """One line for each caution that was given while these records, by name, were measured."""
    kept = {name: table.attrs.get("made", {}).get("warnings", ()) for name, table in tables.items()}
    return [f"{name}: {one['name']}: {one['text']}" for name, cautions in kept.items() for one in cautions]


def plain(cautions: Sequence[Caution]) -> list[dict[str, str]]:
    """Names and texts, the first of each name: what a record keeps."""
    first: dict[str, str] = {}
    for one in cautions:
        first.setdefault(type(one).__name__, str(one))
    return [{"name": name, "text": text} for name, text in first.items()]
