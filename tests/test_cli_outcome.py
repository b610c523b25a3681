"""How commands end: the studies' own here; those of `margincons` in test_cli.py and test_bad_inputs.py."""

import runpy
import sys
import warnings

import pytest

from margincons.cautions import RandomisedWarning
from margincons.cli_outcome import outcome
from margincons.errors import PageError, UsageError


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("attack_runs", "out", "digits/mpl"), "attack_runs: Unknown model 'digits/mpl'"),
        (("attack_runs", "out", "--radii", "eight"), "expected a number such as 0.1 or 8/255"),
        (("attack_runs", "out", "digits/mlp", "digits/mlp"), "attack_runs: Expected networks of different names"),
        (("cost_runs",), "the following arguments are required: folder"),
        (("score_runs", "digits/mpl"), "score_runs: Unknown model 'digits/mpl'"),
        (("score_runs", "--limit", "0"), "expected a whole number of 1 or more"),
        (("shift_runs", "digits/mlp", "--data", "digit"), "shift_runs: Unknown dataset 'digit'"),
        (("training_runs", "seeds", "out", "--seeds", "none"), "expected a whole number of 1 or more"),
    ],
)
def test_what_is_wrong_with_a_study_is_told_in_one_line_and_nothing_is_written(
    arguments, said, tmp_path, monkeypatch, capsys
):
    study, *rest = arguments
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [study, *rest])
    monkeypatch.delitem(sys.modules, f"margincons.studies.{study}", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"margincons.studies.{study}", run_name="__main__")
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert ended.value.code == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UsageError("Expected this, got that."), 2, "try: Expected this, got that.\n"),
        (PageError("cell 3 failed"), 1, "try: "),
        (OSError(28, "No space left on device"), 1, "try: [Errno 28] No space left on device\n"),
        (KeyboardInterrupt(), 130, "try: interrupted; finished files stay, the same command does the rest.\n"),
    ],
)
def test_each_kind_of_error_has_its_status_and_starts_with_the_name_of_the_command(error, status, said, capsys):
    def fail():
        raise error

    assert outcome(fail, name="try") == status
    assert capsys.readouterr().err.startswith(said)
    assert outcome(lambda: None) == outcome(lambda: 0) == 0
    assert outcome(lambda: 1) == 1


def test_an_error_that_nobody_expected_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        outcome(lambda: 1 / 0)


def test_a_caution_is_one_line_each_time_and_warnings_of_others_stay_as_they_are(capsys):
    def command():
        warnings.warn(RandomisedWarning("Two passes differ"), stacklevel=1)
        warnings.warn(RandomisedWarning("Two passes differ"), stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        outcome(command, name="try")
    first, second, *other = capsys.readouterr().err.splitlines()
    assert first == second == f"try: RandomisedWarning: {RandomisedWarning('Two passes differ')}"
    assert "DeprecationWarning: old" in other[0]
