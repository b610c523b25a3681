"""The layers of the package: imports never point up, never form a circle, and stay light."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import margincons

PACKAGE = Path(margincons.__file__).parent
LAYERS = {  # a folder stands for what it holds, unless a file of it is named
    0: ("errors", "cautions"),
    1: ("brief", "threat", "classifier", "passes", "statistics"),
    2: (
        "records",
        "data",
        "recall",
        "scores",
        "costly_scores",
        "paper",
        "attacks.result",
        "attacks.randomness",
        "attacks.steps",
        "studies.neural_collapse",
        "studies.local_complexity",
    ),
    3: ("attacks", "certificates", "data.shifts", "zoo.bundled", "zoo.robustbench", "zoo.user"),
    4: (
        "zoo",
        "zoo.recipes",
        "zoo.training",
        "zoo.long_training",
        "zoo.collapsing",
        "zoo.plane",
        "margins",
        "consistency",
        "detection",
        "geometry",
        "labelled_margins",
        "robust_accuracy",
        "pseudo_margin",
        "detector",
        "checks",
        "studies.accuracy_curve",
        "studies.association",
        "studies.per_class",
        "studies.scaling",
        "studies.score_quality",
        "studies.separation",
        "studies.tightness",
        "studies.transfer",
    ),
    5: (
        "cli_outcome",
        "cli_values",
        "devices",
        "rows",
        "shards",
        "cluster",
        "prepare",
        "measure",
        "recorded",
        "costs",
        "report",
        "plots",
        "studies",
        "detector.calibration",
        "detector.folders",
        "exercises",
    ),
    6: ("book",),
    7: ("cli_detector", "cli"),
    8: ("",),  # the package's public face
}
LAYER = {name: layer for layer, names in LAYERS.items() for name in names}


def module_name(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def layer_of(name):
    return LAYER.get(name, LAYER.get(name.split(".")[0]))


def imported(path):
    """Modules of the package that a file imports, anywhere in it; ``from margincons import metrics`` as metrics."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == "margincons":
                yield rest if rest in SOURCES else rest.rpartition(".")[0]


IMPORTS = {name: set(imported(path)) - {name} for name, path in SOURCES.items()}


@pytest.mark.parametrize("name", SOURCES)
def test_imports_never_point_up(name):
    assert layer_of(name) is not None, f"{name} has no layer: give it one here and in ARCHITECTURE.md"
    for other in IMPORTS[name]:
        assert layer_of(other) <= layer_of(name), f"{name} imports {other}, which lies above it"


def test_imports_form_no_circle():
    TopologicalSorter(IMPORTS).prepare()  # raises CycleError, which names the circle


def test_the_reading_of_imports_sees_what_is_there():
    assert {"errors", "threat"} <= IMPORTS["classifier"]
    assert {"statistics.metrics", "statistics.weighted"} <= IMPORTS[
        "statistics.intervals"
    ]  # from margincons.statistics import metrics, weighted
    assert "zoo.robustbench" in IMPORTS["zoo"]  # inside a function
    assert "errors" not in IMPORTS["errors"]


def test_the_table_of_rooms_has_a_row_for_each_module_and_names_none_that_is_not_there():
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE)
    rooms = [room for row in rows for room in re.findall(r"`([^`]+)`", row)]
    named = [path.name for room in rooms for path in PACKAGE.glob(room)]
    there = [path.name for path in PACKAGE.iterdir() if path.name[0] not in "_." and path.suffix in ("", ".py")]
    assert sorted(named) == sorted(there)
    assert all(any(PACKAGE.glob(room)) for room in rooms)


def test_importing_the_package_loads_nothing_heavy_and_no_network_package():
    heavy = ("robustbench", "torchvision", "matplotlib", "sklearn", "seaborn", "timm", "autoattack", "pyautoattack")
    code = f"import sys, margincons; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_only_records_and_data_read_and_write_their_formats():
    for name, path in SOURCES.items():
        source = path.read_text()
        assert "pyarrow" not in source or name == "records", name
        assert "np.load(" not in source or name == "data", name
