"""The command line: right use works, wrong use gets one line and exit code 2."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from margincons import cli
from margincons.cli import EXAMPLES, main
from margincons.data import load_images
from margincons.errors import PageError
from margincons.records import read_record
from margincons.zoo import list_models, training
from margincons.zoo.training import Outcome

QUICK = ["--attack", "pgd", "--effort", "fast", "--epsilon", "0.1", "--limit", "4"]
MEASURE = ["measure", "digits/mlp", "--data", "digits"]
REPORT = ["report", "digits/mlp/Linf/fab_paper"]
FIT = ["fit", "digits/rescaled", "--data", "digits", "--epsilon", "0.1"]
CALIBRATE = ["calibrate", "digits/mlp", "--data", "digits"]
DETECT = ["detect", "detector.safetensors", "digits/mlp", "--data", "digits"]


@pytest.fixture(autouse=True)
def _somewhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARGINCONS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MARGINCONS_MODELS", str(tmp_path / "models"))


def run(*arguments):
    """Exit status of a command, argparse's own exits included."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code


def save(path, x, y):
    np.savez(path, x=x, y=y)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["measure", "digits/trade", "--data", "digits"],
            "Unknown model 'digits/trade'; the nearest are: digits/trades",
        ),
        (["measure", "robustbench/cifar10/Linf/Wong", "--data", "digits"], "Unknown model 'robustbench/cifar10/Linf/W"),
        (
            ["measure", "robustbench/cifar10/Linf/Wong2020Fast", "--data", "digits"],
            "Expected the weights of robustbench/cifar10/Linf/Wong2020Fast at",
        ),
        (
            ["measure", "nets.py:small", "--data", "digits"],
            "Expected a Python file with a network at nets.py, found none",
        ),
        (["measure", "broken.py:small", "--data", "digits"], "Expected broken.py to hold code that runs"),
        (["measure", "digits/mlp"], "the following arguments are required: --data"),
        (["measure", "--data", "digits"], "the following arguments are required: MODEL"),
        (["measure", "digits/mlp", "--data", "digit"], "Unknown dataset 'digit'; the nearest are: digits"),
        (["measure", "digits/mlp", "--data", "no.npz"], "Expected a file of images at no.npz, found none"),
        (["measure", "digits/mlp", "--data", "no/where"], "Expected a folder of images at no/where, found none"),
        (["measure", "digits/mlp", "--data", "cifar10"], "ask for the download"),
        (["measure", "digits/mlp", "--data", "bright.npz"], "Expected images in [0, 1], got [0, 255]; divide by 255."),
        (["measure", "digits/mlp", "--data", "dark.npz"], "they look mean-normalised"),
        (["measure", "digits/mlp", "--data", "colour.npz"], "what the network takes, got (2, 3, 8, 8)"),
        (["measure", "digits/mlp", "--data", "broken.npz"], "Expected broken.npz to hold arrays x and y"),
        ([*MEASURE, "--attack", "fabb"], "Unknown attack 'fabb'; the nearest are: fab_"),
        ([*MEASURE, "--effort", "huge"], "Unknown effort of minimum_norm 'huge'"),
        ([*MEASURE, "--norm", "Linff"], "Unknown norm 'Linff'; the nearest are: Linf"),
        ([*MEASURE, "--attack", "autoattack"], "The attack 'autoattack' needs epsilon; got epsilon=None."),
        ([*MEASURE, "--epsilon", "0.1"], "'minimum_norm' finds distances: it takes no epsilon; got epsilon=0.1."),
        ([*MEASURE, "--attack", "pgd", "--epsilon", "8"], "did you mean 8/255?"),
        ([*MEASURE, "--attack", "pgd", "--epsilon=-0.1"], "a number >= 0, such as 0.1 or 8/255, got -0.1."),
        ([*MEASURE, "--attack", "pgd", "--epsilon", "8/0"], "expected a number such as 0.1 or 8/255, got '8/0'"),
        ([*MEASURE, "--attack", "pgd", "--epsilon", "small"], "expected a number such as 0.1 or 8/255, got 'small'"),
        ([*MEASURE, "--attack", "pgd", "--epsilon", "nan"], "expected a number such as 0.1 or 8/255, got 'nan'"),
        *[
            ([*command, "--limit", text], f"argument --limit: expected a whole number of 1 or more, got '{text}'")
            for command in (MEASURE, FIT, CALIBRATE, DETECT)
            for text in ("0", "-1", "few")
        ],
        ([*MEASURE, "--limit", "9" * 5000], f"invalid int value: '{'9' * 40}'"),
        ([*FIT, "--epsilon", "8"], "did you mean 8/255?"),
        ([*MEASURE, "--batch-size", "0"], "Expected a batch size of 1 or more, got 0."),
        ([*MEASURE, "--shard-size", "0"], "Expected a shard size of 1 or more, got 0."),
        ([*MEASURE, "--device", "tpu"], "Expected the device to be 'auto', 'cpu' or 'cuda', got 'tpu'."),
        ([*MEASURE, "--speed", "9"], "unrecognized arguments: --speed 9"),
        ([*REPORT], "the following arguments are required: --epsilon"),
        ([*REPORT, "--epsilon", "8"], "did you mean 8/255?"),
        ([*REPORT, "--epsilon=-1"], "a number >= 0, such as 0.1 or 8/255, got -1.0."),
        ([*REPORT, "--epsilon", "0.1", "--score", "margin"], "Unknown score 'margin'; the nearest are: logit_margin"),
        (
            ["report", "digits/mlp/Linf/fab", "--epsilon", "0.1"],
            "Unknown record 'digits/mlp/Linf/fab'; the nearest are",
        ),
        (["report", "runs/mine", "--epsilon", "0.1"], "Expected a record at runs/mine, found none"),
        (["report", "broken.npz", "--epsilon", "0.1"], "Expected broken.npz to hold a shard of a record"),
        ([*REPORT, "--epsilon", "0.1", "--csv", "--latex"], "argument --latex: not allowed with argument --csv"),
        ([*MEASURE, "--batch-size", "many"], "expected a whole number or auto, got 'many'"),
        ([*MEASURE, "--workers", "0"], "expected a whole number of 1 or more, got '0'"),
        ([*MEASURE, "--workers", "2", "--scheduler", "tcp://x:1"], "--scheduler: not allowed with argument --workers"),
        ([*MEASURE, "--scheduler", "nowhere"], "Expected a Dask scheduler at nowhere, but: "),
        (["calibrate", "digits/mlp", "--data", "digits"], "the following arguments are required: --epsilon"),
        ([*CALIBRATE, "--epsilon", "x"], "expected a number such as 0.1 or 8/255"),
        (DETECT[:-2], "the following arguments are required: --data"),
        ([*DETECT, "--worst", "0"], "expected a whole number of 1 or more, got '0'"),
        (["models", "digit/"], "Unknown start of an id 'digit/'"),
        (["train", "digits/pgdat", "--out", "d"], "Unknown recipe 'digits/pgdat'; the nearest are: digits/pgd_at"),
        (["train"], "the following arguments are required: ID"),
        ([*FIT, "--seeds", "0"], "argument --seeds: expected a whole number of 1 or more, got '0'"),
        (["book", "-p", "n_images", "[1,"], "expected the value of n_images as YAML would write it, got '[1,'"),
        (["book", "-p", "n_images"], "expected 2 arguments"),
        (["book", "--jobs", "two"], "invalid int value: 'two'"),
        (["book", "--dry-run"], "_toc.yml"),
        (["boook"], "invalid choice: 'boook'"),
        ([], "the following arguments are required: COMMAND"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_wrong_use_gets_one_line_and_exit_code_2(tmp_path, capfd, arguments, text):
    save("bright.npz", np.full((2, 1, 8, 8), 255.0) * np.eye(8), np.zeros(2, int))
    save("dark.npz", np.full((2, 1, 8, 8), -1.0), np.zeros(2, int))
    save("colour.npz", np.zeros((2, 3, 8, 8)), np.zeros(2, int))
    (tmp_path / "broken.npz").write_bytes(b"nothing")
    (tmp_path / "broken.py").write_text("def small(:\n")
    before = sorted(tmp_path.rglob("*"))
    assert run(*arguments) == 2
    out, err = capfd.readouterr()
    assert text in err
    assert err.startswith("margincons")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert out == ""
    assert [
        path for path in sorted(tmp_path.rglob("*")) if "runs" not in path.parts and "__pycache__" not in path.parts
    ] == before


def test_a_folder_for_a_network_of_one_channel_is_refused_with_the_way_out_and_that_works(tmp_path, capfd):
    images = load_images("digits", split="calibration", n=12)
    for row, label in enumerate(images.labels):
        path = tmp_path / "grey" / str(label.item()) / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * images.inputs[row, 0]).byte().numpy()).save(path)
    for command in (["measure"], ["calibrate", "--epsilon", "0.1"]):
        assert run(*command, "digits/trades", "--data", "grey", *QUICK[-2:], "--effort", "fast") == 2
        refused = capfd.readouterr().err
        assert refused.count("\n") == 1
        assert "got (2, 3, 8, 8): " in refused
        assert "it takes one channel: a folder's pictures are read in three, store grey ones in an .npz." in refused
    save("grey.npz", images.inputs.numpy(), images.labels.numpy())
    assert run("measure", "digits/trades", "--data", "grey.npz", *QUICK[-2:], "--effort", "fast") == 0


@pytest.mark.parametrize("command", EXAMPLES)
def test_each_help_shows_an_example_that_parses(capsys, command):
    assert run(command, "--help") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"example: {EXAMPLES[command]}" in shown
    program, *arguments = EXAMPLES[command].split()
    assert program == "margincons"
    assert cli._parser().parse_args(arguments).run is not None


def test_the_help_lists_every_command(capsys):
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in EXAMPLES)


def test_measure_writes_records_and_says_where_and_report_reads_them(tmp_path, capsys):
    assert run("measure", "digits/mlp", "digits/standard", "--data", "digits", *QUICK, "--out", "runs") == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 2
    for line, model in zip(out, ("digits/mlp", "digits/standard"), strict=True):
        table = read_record(tmp_path / "runs" / model / "Linf" / "pgd")
        assert table.attrs["settings"]["epsilon"] == 0.1
        found = table["success"].sum()
        assert line == f"runs/{model}/Linf/pgd: 4 images, {found} verified witnesses, {4 - found} without one"


def test_report_says_on_stderr_why_a_budget_leaves_cells_empty(tmp_path, capsys):
    options = ("--attack", "fgsm", "--epsilon", "8/255", "--limit", "4", "--out", str(tmp_path))
    assert run("measure", "digits/mlp", "--data", "digits", *options) == 0
    capsys.readouterr()
    record = f"{tmp_path}/digits/mlp/Linf/fgsm"
    for epsilon, lines in (("8/255", 0), ("0.0313725", 1)):
        assert run("report", record, "--epsilon", epsilon) == 0
        err = capsys.readouterr().err
        assert err.count(f"margincons: {record}: fgsm had a budget of 0.03137") == err.count("\n") == lines


def test_report_prints_one_row_per_record(capsys):
    names = ["digits/mlp/Linf/fab_paper", "digits/trades/Linf/fab_paper"]
    assert run("report", *names, "--epsilon", "1/10") == 0
    header, *rows = capsys.readouterr().out.splitlines()
    for title in ("tau", "AUROC", "AUPR", "FPR@95TPR", "clean accuracy", "robust accuracy"):
        assert title in header
    assert [row.split()[0] for row in rows] == names
    assert all(" 800 " in row for row in rows)


@pytest.mark.parametrize(
    ("form", "start"), [("csv", "record,images,tau"), ("markdown", "| record |"), ("latex", r"\begin")]
)
def test_report_prints_other_forms(capsys, form, start):
    assert run(*REPORT, "--epsilon", "0.1", f"--{form}") == 0
    out = capsys.readouterr().out
    assert out.startswith(start)
    assert "fab" in out


def test_models_lists_ids_by_their_start(capsys):
    assert run("models", "digits/") == 0
    assert capsys.readouterr().out.split() == list_models("digits/")
    assert run("models", "robustbench/imagenet/L2") in (0, 2)


def test_train_exits_with_1_where_the_outcome_disagrees(tmp_path, capsys, monkeypatch):
    for accuracy, status in ((0.98, 0), (0.5, 1)):
        about = {"recorded_accuracy": 0.98, "same_weights": False, "path": tmp_path / "weights"}
        monkeypatch.setattr(
            training,
            "retrain",
            lambda model_id, *, out, seed, progress, a=accuracy, about=about: Outcome(
                model_id=model_id, accuracy=a, **about
            ),
        )
        assert run("train", "digits/mlp") == status
        assert f"digits/mlp: clean accuracy {accuracy:.4f}, recorded 0.9800" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (PageError("Page one failed."), 1, "margincons: Page one failed."),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted; finished files stay, the same command does the rest"),
    ],
)
def test_work_that_fails_is_told_apart_from_wrong_use(capsys, monkeypatch, error, status, text):
    def fail(_):
        raise error

    monkeypatch.setattr(cli, "_models", fail)
    assert run("models") == status
    assert text in capsys.readouterr().err


def test_a_bug_is_not_taken_for_wrong_use(monkeypatch):
    monkeypatch.setattr(cli, "_models", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("models")


def test_numbers_may_be_fractions_and_page_parameters_are_read_as_yaml():
    options = cli._parser().parse_args([*REPORT, "--epsilon", "8 / 255"])
    assert options.epsilon == 8 / 255
    pairs = ["-p", "n_images", "200", "-p", "model_ids", "[a, b]", "-p", "fast", "true", "-p", "norm", "L2"]
    options = cli._parser().parse_args(["book", *pairs])
    assert dict(options.parameter) == {"n_images": 200, "model_ids": ["a", "b"], "fast": True, "norm": "L2"}
    assert cli._parser().parse_args(["book"]).parameter == []  # the default is not shared between calls


def test_pseudo_margins_are_fitted_from_the_command_line(tmp_path, capsys):
    options = ["--epsilon", "0.1", "--effort", "fast", "--seeds", "1", "--limit", "12"]
    assert run("fit", "digits/mlp", "--data", "digits", "--records", "runs", "--out", "fits", *options) == 0
    table = read_record(tmp_path / "fits" / "pseudo_margin" / "digits" / "mlp" / "Linf" / "minimum_norm")
    assert f"digits/mlp: {len(table)} pseudo-margins fitted and judged" in capsys.readouterr().out
    assert run("fit", "digits/mlp", "--data", "digits", "--records", "runs", "--splits", "test", *options) == 2
    assert "to learn from, got those of digits/test" in capsys.readouterr().err


def test_a_networks_own_file_is_measured(tmp_path):
    (tmp_path / "nets.py").write_text(
        "from torch import nn\ndef small():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    images = load_images("digits", n=3)
    save("mine.npz", images.inputs.numpy(), images.labels.numpy())
    assert run("measure", "nets.py:small", "--data", "mine.npz", "--effort", "fast", "--out", "runs") == 0
    table = read_record(tmp_path / "runs" / "nets.small" / "Linf" / "minimum_norm")
    assert (table["success"].all(), table.attrs["settings"]["data"]) == (True, "mine")


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [(["measure", "digits/nope", "--data", "digits"], 2, "Unknown model 'digits/nope'"), (["train", "--help"], 0, "")],
)
def test_as_a_process_it_exits_the_same_way(arguments, status, text):
    done = subprocess.run(
        [sys.executable, "-m", "margincons.cli", *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == status
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert ("example: margincons train" in done.stdout) == (status == 0)


def test_a_caution_is_one_line_on_stderr_and_no_reason_to_stop(tmp_path, capfd):
    (tmp_path / "nets.py").write_text(
        "from torch import nn\nfrom margincons.zoo import load_model\n"
        "def soft():\n    return nn.Sequential(load_model('digits/mlp'), nn.Softmax(dim=1))\n"
    )
    assert run("measure", "nets.py:soft", "--data", "digits", "--effort", "fast", "--limit", "4", "--out", "runs") == 0
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("margincons: ")]
    names = ["NoHeadWarning", "ProbabilitiesWarning"]
    assert [line.split(": ")[1] for line in lines] == names
    assert run("report", "runs/nets.soft/Linf/minimum_norm", "--epsilon", "0.1") == 0
    out, err = capfd.readouterr()
    assert [line.split(": ")[2] for line in err.splitlines()] == names
    assert "Warning" not in out


def test_ctrl_c_stops_with_one_line_and_the_same_command_goes_on(tmp_path):
    (tmp_path / "nets.py").write_text(
        "import time\nfrom margincons.zoo import load_model\ndef slow():\n    model = load_model('digits/mlp')\n"
        "    model.register_forward_pre_hook(lambda *_: time.sleep(0.02))\n    return model\n"
    )
    command = ["measure", "nets.py:slow", "--data", "digits", *QUICK[:-2], "--limit", "200", "--shard-size", "10"]
    hear = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)"  # deaf when started by a shell's &
    code = f"import sys\n{hear}\nfrom margincons.cli import main\nsys.exit(main({command}))"
    folder = tmp_path / "runs" / "nets.slow" / "Linf" / "pgd"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        while len(list(folder.glob("*.parquet"))) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert err.endswith("margincons: interrupted; finished files stay, the same command does the rest.\n")
    assert "Traceback" not in err
    assert "/200 [" in err  # the bar: how many of how many, time and rate
    finished = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert all(name.endswith(".parquet") for name in finished)
    assert 2 <= len(finished) < 20
    (tmp_path / "nets.py").write_text(
        "from margincons.zoo import load_model\ndef slow():\n    return load_model('digits/mlp')\n"
    )
    assert run(*command) == 0
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(after) == 20
    assert finished.items() <= after.items()
