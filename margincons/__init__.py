"""Margin consistency: which decisions of a robust classifier are brittle, from one forward pass."""

from margincons.attacks.result import AttackResult
from margincons.classifier import Classifier
from margincons.consistency import consistency
from margincons.data import Images, load_images
from margincons.detection import detection
from margincons.detector import Detector
from margincons.errors import MarginError
from margincons.margins import MarginBounds, input_margins
from margincons.measure import measure, measure_images
from margincons.records import read_record
from margincons.report import report
from margincons.scores import logit_margin
from margincons.statistics.intervals import Estimate
from margincons.threat import ThreatModel
from margincons.zoo import list_models, load_model

__all__ = [
    "AttackResult",
    "Classifier",
    "Detector",
    "Estimate",
    "Images",
    "MarginBounds",
    "MarginError",
    "ThreatModel",
    "consistency",
    "detection",
    "input_margins",
    "list_models",
    "load_images",
    "load_model",
    "logit_margin",
    "measure",
    "measure_images",
    "read_record",
    "report",
]
__version__ = "0.1.0"
