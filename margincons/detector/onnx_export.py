"""A network and its detector as one ONNX graph, for runtimes without Python or torch."""

import importlib.util
import io
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from margincons.classifier import Classifier, as_taken
from margincons.detector.scorer import Scorer
from margincons.detector.thresholds import Thresholds
from margincons.errors import ExportError, MissingExtraError
from margincons.records.atomic import check_target, written_whole

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4  # of the largest value: between torch and the runtime that checks the graph
OUTPUTS = ("logits", "score", "flag", "brittle")


class Graph(nn.Module):
    """What is exported: images (n, c, h, w) to logits (n, k), scores (n,), and two booleans (n,) each.

    Args:
        classifier: The network.
        scorer: The score.
        thresholds: What is flagged, and what is called brittle.
    """

    def __init__(self, classifier: Classifier, scorer: Scorer, thresholds: Thresholds) -> None:
        super().__init__()
        self.model, self.scorer = classifier.model, scorer
        self._classifier, self.thresholds = classifier, thresholds

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pass images through network, score and thresholds."""
        outputs = self._classifier.pass_through(images, features=self.scorer.needs_features)
        scores = self.scorer(outputs)
        return outputs.logits, scores, self.thresholds.flagged(scores), self.thresholds.brittle(scores)


def export_onnx(
    path: str | Path,
    classifier: Classifier,
    scorer: Scorer,
    thresholds: Thresholds,
    *,
    image_shape: tuple[int, int, int],
) -> None:
    """Write one graph: input "images" (n, c, h, w), any n; outputs "logits", "score", "flag" and "brittle".

    A flagged image that is not called brittle is undecided; without a false-alarm rate there is none. The graph checks
    neither the pixel range nor the network's weights: whoever runs it answers for both. Before it is written it is run
    on another number of images than it was exported with, and must give what torch gives.

    Raises:
        MissingExtraError: If the extra ``onnx`` is not installed.
        ExportError: If torch cannot export the network, or the graph does not give what the network gives.
        UsageError: If no file can be written there.
    """
    check_target(path, "the graph")
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError("onnx", "an ONNX graph", package)
    graph = Graph(classifier, scorer, thresholds).eval()
    images = as_taken(torch.rand(5, *image_shape, generator=torch.Generator().manual_seed(0)), graph)
    content = _exported(graph, images[:2])
    _check(content, graph, images)
    with written_whole(Path(path)) as file:
        file.write(content)


def _exported(graph: Graph, example: Tensor) -> bytes:
    """Export in silence: torch narrates its steps, and warns of its own deprecations."""
    names = {"input_names": ["images"], "output_names": list(OUTPUTS)}
    said = io.StringIO()
    with warnings.catch_warnings(), redirect_stdout(said), redirect_stderr(said), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                graph, (example,), dynamo=True, dynamic_shapes=({0: torch.export.Dim("n")},), verbose=False, **names
            )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
            raise ExportError(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    return program.model_proto.SerializeToString()


@torch.no_grad()
def _check(content: bytes, graph: Graph, images: Tensor) -> None:
    """Code that leaves torch may be exported as the constants it gave while torch was watching.

    Decisions are held against the graph's own scores, since beside a threshold rounding decides.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": images.cpu().numpy()})
    rule, scores = graph.thresholds, torch.from_numpy(found[1])
    wanted = [*graph(images)[:2], rule.flagged(scores), rule.brittle(scores)]
    for name, ours, theirs in zip(OUTPUTS, (values.cpu().numpy() for values in wanted), found, strict=True):
        if ours.shape != theirs.shape or not np.allclose(ours, theirs, rtol=0, atol=TOLERANCE * np.abs(ours).max()):
            raise ExportError(f"the graph gives other values of {name} for {len(images)} images than the network")
