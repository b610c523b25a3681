import os

import pytest
import torch

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
