"""Records under every shift: made once, the images that the page would see, and shipped ones found again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from margincons import load_images, load_model, measure_images
from margincons.data.shifts import SHIFTS, shift
from margincons.errors import RecordError, UsageError
from margincons.records import read_record, shipped_records
from margincons.studies.shift_runs import main, obtain_shifts, shifts_again

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"
SHIPPED = [name for name in shipped_records() if name.startswith("shifts/")]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shifts")
    images = load_images("digits", n=20)
    np.savez(folder / "mine.npz", x=images.inputs.numpy(), y=images.labels.numpy())
    (folder / "nets.py").write_text(
        "from margincons import load_model\n\ndef net():\n    return load_model('digits/mlp')\n"
    )
    return folder


def made(files, **options):
    return obtain_shifts(f"{files}/nets.py:net", f"{files}/mine.npz", judged=6, out=files / "runs", **options)


def test_a_record_holds_every_guise_of_the_judged_images_and_all_images_clean(files):
    table = made(files)
    counts = table.groupby(["shift", "severity"]).size()
    assert counts[("clean", 0)] == 20
    assert len(counts) == 1 + 3 * len(SHIFTS)
    assert (counts.drop(("clean", 0)) == 6).all()
    images = load_images("digits", n=6)
    moved = replace(images, inputs=shift(images.inputs, 2, name="occlusion"))
    live = measure_images(load_model("digits/mlp"), moved, effort="fast")
    rows = table[(table["shift"] == "occlusion") & (table["severity"] == 2)]
    assert rows["upper"].tolist() == pytest.approx(live["upper"].tolist(), rel=1e-5)
    assert rows["label"].tolist() == images.labels.tolist()
    again = shifts_again(table, "occlusion", 2, n=4, folder=files)
    assert again["upper"].tolist() == pytest.approx(rows["upper"].head(4).tolist(), rel=1e-3)


def test_a_record_that_is_there_is_taken_and_other_settings_are_refused(files):
    made(files)
    (path,) = (files / "runs").rglob("*.parquet")
    before = path.stat().st_mtime_ns
    made(files)
    assert path.stat().st_mtime_ns == before
    with pytest.raises(RecordError, match="seed=1"):
        made(files, seed=1)
    table = made(files)
    table.attrs["settings"] = table.attrs["settings"] | {"data_sha256": "0" * 64}
    with pytest.raises(RecordError, match="Expected the images that the record was measured on"):
        shifts_again(table, "blur", 1, n=2, folder=files)
    with pytest.raises(UsageError, match="judge 1 to 19 of 20"):
        obtain_shifts(f"{files}/nets.py:net", f"{files}/mine.npz", judged=20, out=files)


def test_the_command_measures_what_it_is_told(files, capsys, tmp_path):
    main([f"{files}/nets.py:net", "--data", f"{files}/mine.npz", "--judged", "2", "--out", str(tmp_path)])
    assert capsys.readouterr().out.endswith(f"net: {20 + 2 * 3 * len(SHIFTS)} margins\n")


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="independent networks are not on this machine")
@pytest.mark.parametrize("name", SHIPPED)
def test_a_sample_of_a_shipped_record_is_found_again(name):
    table = read_record(name)
    for kind, severity in (("clean", 0), ("blur", 2), ("occlusion", 3)):
        rows = table[(table["shift"] == kind) & (table["severity"] == severity)].head(5)
        again = shifts_again(table, kind, severity, n=5, folder=DATA)
        assert again["index"].tolist() == rows["index"].tolist()
        assert ((again["upper"].to_numpy() / rows["upper"].to_numpy() - 1).__abs__() <= 1e-3).mean() >= 0.8


def test_the_book_has_five_networks_that_others_trained():
    assert len(SHIPPED) == 5
