import os
from pathlib import Path

import pytest
import torch

from margincons.book.site import SITE

torch.set_num_threads(1)  # pytest-xdist runs tests side by side


@pytest.fixture(autouse=True)
def _seeded():
    """Nothing should draw from torch's global generator; what does, draws the same in every order of tests."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def absent():
    """Skip what this machine lacks, and say what would bring it; with CI=true nothing may be lacking."""

    def skip_or_fail(what: str) -> None:
        if os.environ.get("CI") == "true":
            pytest.fail(what)
        pytest.skip(what)

    return skip_or_fail


@pytest.fixture(scope="session")
def site(absent):
    """The folder of the built book."""
    html = Path(__file__).parents[1] / SITE
    if not (html / "index.html").is_file():
        absent("There is no built book in _build/html: run `make book`.")
    return html
