import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
NEEDED = ["awk", "bash", "cat", "cksum", "cut", "make", "rm", "touch"]  # what every Debian has, and make


@pytest.fixture
def machine(tmp_path):
    """A clone on a machine whose only programs are those of an empty Debian with make; more can be put there."""
    clone, programs = tmp_path / "clone", tmp_path / "bin"
    clone.mkdir()
    programs.mkdir()
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, clone)
    for name in NEEDED:
        programs.joinpath(name).symlink_to(shutil.which(name))
    return clone


def install(machine, name, script="exit 0"):
    program = machine.parent / "bin" / name
    program.write_text(f"#!/bin/bash\n{script}\n")
    program.chmod(0o755)
    return program


def make(machine, *arguments):
    programs = str(machine.parent / "bin")
    return subprocess.run(
        ["make", *arguments], cwd=machine, env={"PATH": programs}, capture_output=True, text=True, check=False
    )


def missing(machine):
    result = make(machine, "book")
    assert result.returncode != 0
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("make: ***")]
    return line


def test_make_names_a_missing_git(machine):
    assert missing(machine) == "Missing: git. On Debian: apt-get install git"


def test_make_names_a_missing_python(machine):
    install(machine, "git")
    assert missing(machine) == "Missing: python3. On Debian: apt-get install python3 python3-venv"


def test_make_names_a_python_that_is_too_old(machine):
    install(machine, "git")
    install(machine, "python3", 'if [ "$1" = --version ]; then echo Python 3.9.2; else exit 1; fi')
    assert missing(machine) == (
        "Missing: Python 3.11 or later; python3 is Python 3.9.2. Name another: make PYTHON=python3.12"
    )


def test_make_names_a_missing_venv_module(machine):
    install(machine, "git")
    install(machine, "python3", 'if [[ "$2" == *ensurepip* ]]; then exit 1; fi')
    assert missing(machine) == "Missing: python3-venv. On Debian: apt-get install python3-venv"


@pytest.fixture
def uv(machine):
    """The machine with git, a Python without venv, and a uv that notes what it is asked and makes what it would."""
    install(machine, "git")
    install(machine, "python3", 'if [[ "$2" == *ensurepip* ]]; then exit 1; fi')
    asked, python = machine / "asked", machine / "here" / "bin" / "python"
    python.parent.mkdir(parents=True)
    made = f'echo "#!/bin/bash\necho PYTHONPATH=\\$PYTHONPATH \\$*" > {python}; {shutil.which("chmod")} +x {python}'
    install(machine, "uv", f'echo "$*" >> {asked}\nif [ "$1" = venv ]; then {made}; fi')
    return asked


def test_make_installs_the_lock_once_and_again_when_it_changes(machine, uv):
    assert make(machine, "setup", "VENV=here").returncode == 0
    assert uv.read_text().splitlines() == [
        "venv -q --python python3 here",
        "pip install -q --python here/bin/python --no-deps -r requirements.lock",
        "pip install -q --python here/bin/python --no-deps --no-build-isolation -e .",
    ]
    uv.unlink()
    assert make(machine, "setup", "VENV=here").returncode == 0
    assert not uv.exists()
    with (machine / "requirements.lock").open("a") as lock:
        lock.write("more==1.0\n")
    assert make(machine, "setup", "VENV=here").returncode == 0
    assert len(uv.read_text().splitlines()) == 2


def test_make_runs_this_clone_whatever_environment_it_shares(machine, uv):
    result = make(machine, "book", "VENV=here", "PROFILE=cifar10", "ARGS=--dry-run")
    assert result.stdout.splitlines()[-1] == (
        f"PYTHONPATH={machine} -m margincons.cli book --profile cifar10 --jobs 2 --dry-run"
    )


def test_make_help_names_every_command(machine):
    text = make(machine, "help").stdout
    for command in ("setup", "book", "test", "lint", "bench", "lock", "clean"):
        assert f"make {command} " in text


def test_the_lock_pins_every_dependency_to_a_version_that_is_allowed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = [line.split(";")[0].strip() for line in (ROOT / "requirements.lock").read_text().splitlines()]
    pins = {name: version for name, _, version in (line.partition("==") for line in lines if "==" in line)}
    extras = project["project"]["optional-dependencies"].values()
    for text in sum(extras, project["project"]["dependencies"]):
        wanted = Requirement(text)
        assert wanted.specifier.contains(pins[wanted.name]), text


def test_what_ci_runs_can_be_executed():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
