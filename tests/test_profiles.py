"""The lecture's and the paper's pages under the CIFAR-10 profile: a true architecture, random weights, eight images.

So that whoever has a GPU, the checkpoints and the images meets no surprise.
"""

import dataclasses
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import pytest
import torch
import yaml

from margincons.book.execution import execute_pages
from margincons.book.pages import book_pages, page_parameters, read_profile
from margincons.data import load_images
from margincons.errors import DownloadError
from margincons.zoo import load_model
from margincons.zoo.robustbench import list_robustbench, robustbench_checkpoints

ROOT = Path(__file__).parents[1]
STAND_IN = "robustbench/cifar10/Linf/Wong2020Fast"  # a PreAct ResNet-18
QUICK = ("correlation",)


def pages_of(*captions):
    parts = yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"]
    chapters = [chapter for part in parts if part["caption"] in captions for chapter in part["chapters"]]
    names = [chapter["file"].rsplit("/", 1)[-1] for chapter in chapters]
    return [page for page in book_pages(ROOT) if page.name in names]


PAGES = pages_of("Evaluating robustness", "The paper")


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """Folders of checkpoints and records, and a file of images; the records are shared by all pages of a process."""
    list_robustbench()  # imports RobustBench with its own warnings kept quiet
    from robustbench.model_zoo import model_dicts
    from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel

    root = tmp_path_factory.mktemp("stand_in")
    _, dataset, norm, name = STAND_IN.split("/")
    torch.manual_seed(0)
    network = model_dicts[BenchmarkDataset(dataset)][ThreatModel(norm)][name]["model"]()
    path = robustbench_checkpoints(STAND_IN, model_dir=root / "models")[0]
    path.parent.mkdir(parents=True)
    torch.save(network.state_dict(), path)
    draw = np.random.default_rng(0)
    pixels, labels = draw.integers(0, 256, (8, 3, 32, 32), dtype=np.uint8), draw.integers(0, 10, 8)
    with torch.no_grad():  # half of the images are classified correctly, as some are by any network worth a page
        decided = network.eval()(torch.from_numpy(pixels).float() / 255).argmax(dim=1)
    labels[:4] = decided[:4]
    np.savez(root / "images.npz", x=pixels, y=labels)
    np.savez(root / "train.npz", x=draw.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8), y=draw.integers(0, 10, 12))
    return root


def under_the_profile(stand_in):
    """The profile cifar10 with one network, eight images and a CPU in place of what it names."""
    instead = {
        "dataset": str(stand_in / "images.npz"),
        "model_ids": [STAND_IN],
        "compared": [STAND_IN],
        "n_images": 8,
        "n_live": 4,
        "n_path": 4,
        "n_grid": 4,
        "n_shown": 2,
        "n_restarts": 2,
        "steps": 3,
        "weak_ids": [STAND_IN],
        "fit_splits": [str(stand_in / "train.npz")],
        "n_fit": 12,
        "n_seeds": 2,
        "records": str(stand_in / "records"),
        "device": "cpu",
    }
    profile = read_profile("cifar10", ROOT)
    declared = {name for page in book_pages(ROOT) for name in page.declared}
    return {name: value for name, value in (profile | instead).items() if name in declared}


@pytest.mark.parametrize(
    "page",
    [page if page.name in QUICK else pytest.param(page, marks=pytest.mark.slow) for page in PAGES],
    ids=lambda p: p.name,
)
def test_a_page_runs_under_the_cifar10_profile(page, stand_in, tmp_path, monkeypatch):
    monkeypatch.setenv("MARGINCONS_MODELS", str(stand_in / "models"))
    monkeypatch.setenv("MARGINCONS_DOWNLOAD", "0")
    page = dataclasses.replace(page, output=tmp_path / "page.ipynb")
    given = page_parameters(book_pages(ROOT), under_the_profile(stand_in))
    execute_pages([page], given, {page.name: ""}, root=tmp_path, jobs=1)
    cells = nbformat.read(page.output, as_version=4).cells
    assert [cell.source for cell in cells if "injected-parameters" in cell.metadata.get("tags", [])]
    assert not [out for cell in cells for out in cell.get("outputs", []) if out.get("name") == "stderr"]


@pytest.mark.parametrize("page", book_pages(ROOT), ids=lambda page: page.name)
def test_the_default_profile_changes_no_page(page):
    own = {}
    cells = jupytext.read(page.source, fmt="md:myst").cells
    exec(next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])), own)
    given = {name: value for name, value in read_profile("digits", ROOT).items() if name in page.declared}
    assert given == {name: own[name] for name in given}


def test_there_is_a_quick_page_and_every_page_of_both_parts_is_tried():
    tried = {page.name for page in PAGES}
    assert tried >= {*QUICK, "cifar10", "detection", "robust_accuracy", "sanity", "doubts", "fgsm", "transfer"}


def test_downloads_are_allowed_by_the_call_or_by_the_environment_only(monkeypatch, tmp_path):
    monkeypatch.setenv("MARGINCONS_MODELS", str(tmp_path))
    monkeypatch.setenv("MARGINCONS_DATA", str(tmp_path / "data"))
    asked = []
    monkeypatch.setattr("margincons.zoo.robustbench._download", lambda drive_id, path: asked.append(path))
    monkeypatch.delenv("MARGINCONS_DOWNLOAD", raising=False)
    for load in (lambda: load_model(STAND_IN), lambda: load_images("cifar10")):
        with pytest.raises(DownloadError, match="found none"):
            load()
    assert not asked
    monkeypatch.setenv("MARGINCONS_DOWNLOAD", "1")
    with pytest.raises(FileNotFoundError):  # the stand-in for the download brings nothing
        load_model(STAND_IN)
    assert [path.name for path in asked] == ["Wong2020Fast.pt"]
