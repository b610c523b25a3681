import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jupytext
import nbformat
import papermill
import pytest
import yaml

from margincons.book import build_book, execution
from margincons.book.pages import book_pages, declared_parameters, page_parameters, read_profile
from margincons.book.plan import planned_measurements
from margincons.errors import FileFormatError, MissingFileError, PageError, UnknownNameError, UsageError
from margincons.zoo import list_models
from margincons.zoo.robustbench import robustbench_checkpoints

ROOT = Path(__file__).parents[1]
PROFILES = sorted(path.stem for path in (ROOT / "notebooks" / "params").glob("*.yaml"))
PARAMETERS = "epsilon: float = 0.1  # radius\nnames: list[str] = ['a']  # ids"


def write_page(root, name, *cells, parameters=PARAMETERS):
    blocks = [f"```{{code-cell}} ipython3\n:tags: [parameters]\n{parameters}\n```"]
    blocks += [f"```{{code-cell}} ipython3\n{cell}\n```" for cell in cells]
    (root / "notebooks" / f"{name}.md").write_text(f"# Page {name}\n\n" + "\n\n".join(blocks) + "\n")


def write_toc(root, *names):
    first, *others = [f"book/executed/{name}" for name in names]
    toc = {"format": "jb-book", "root": first, "parts": [{"chapters": [{"file": file} for file in others]}]}
    (root / "_toc.yml").write_text(yaml.safe_dump(toc if others else {"format": "jb-book", "root": first}))


def write_profile(root, text, name="digits"):
    (root / "notebooks" / "params" / f"{name}.yaml").write_text(text)


def outputs(notebook):
    return "".join(output.text for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output)


@pytest.fixture
def project(tmp_path):
    (tmp_path / "notebooks" / "params").mkdir(parents=True)
    write_page(tmp_path, "one", "print(epsilon, names)")
    write_page(tmp_path, "two", "print(n)", parameters="n: int = 3  # images\nfast: bool = True  # or thorough")
    write_toc(tmp_path, "one", "two")
    write_profile(tmp_path, "epsilon: 0.2\nn: 4\n")
    return tmp_path


def test_each_page_is_given_just_the_parameters_that_it_declares(project):
    chosen = page_parameters(book_pages(project), {"epsilon": 0.2, "n": 4, "names": ["b"]})
    assert chosen == {"one": {"epsilon": 0.2, "names": ["b"]}, "two": {"n": 4}}


def test_a_parameter_that_no_page_declares_is_refused_and_the_nearest_is_named(project):
    with pytest.raises(UnknownNameError, match="Unknown page parameter 'epsilom'; the nearest are: epsilon"):
        build_book(root=project, parameters={"epsilom": 0.2})
    assert not (project / "book").exists()


@pytest.mark.parametrize(
    "wrong",
    [{"epsilon": "8/255"}, {"epsilon": True}, {"n": 4.0}, {"n": [4]}, {"names": "a"}, {"names": [1]}, {"fast": 1}],
    ids=str,
)
def test_a_value_of_another_type_than_declared_is_refused(project, wrong):
    name = next(iter(wrong))
    with pytest.raises(UsageError, match=f"Expected the page parameter '{name}' to be"):
        page_parameters(book_pages(project), wrong)


@pytest.mark.parametrize("right", [{"epsilon": 1}, {"epsilon": 0.5}, {"n": 0}, {"names": []}, {"fast": False}], ids=str)
def test_a_value_of_the_declared_type_is_taken(project, right):
    chosen = page_parameters(book_pages(project), right)
    assert right in chosen.values()


@pytest.mark.parametrize(
    "text",
    [
        "epsilon: !!python/object/apply:os.system ['touch pwned']",
        "epsilon:\n  low: 0.1",
        "names: [[a]]",
        "epsilon: 2024-06-26",
        "epsilon: null",
        "- epsilon",
        "epsilon: [",
        "",
    ],
)
def test_a_profile_that_is_not_flat_is_refused_before_anything_runs(project, text, monkeypatch):
    monkeypatch.chdir(project)
    write_profile(project, text)
    with pytest.raises(FileFormatError, match=r"digits\.yaml to hold `name: value` lines"):
        build_book(root=project)
    assert not (project / "book").exists()
    assert not (project / "pwned").exists()


@pytest.mark.parametrize("line", ["epsilon = 0.1", "epsilon: dict = {}", "epsilon: float", "import os", "x: list = []"])
def test_a_parameters_cell_holds_typed_values_and_nothing_else(project, line):
    write_page(project, "one", parameters=line)
    with pytest.raises(FileFormatError, match=r"one\.md to hold parameters such as `epsilon: float = 0.1`"):
        book_pages(project)


def test_unknown_pages_and_profiles_are_refused_by_name(project):
    with pytest.raises(UnknownNameError, match="Unknown page 'tow'; the nearest are: two"):
        build_book(root=project, pages=["tow"])
    with pytest.raises(UnknownNameError, match="Unknown profile 'digit'; the nearest are: digits"):
        build_book(root=project, profile="digit")
    with pytest.raises(MissingFileError, match=r"Expected a profile at nowhere\.yaml"):
        build_book(root=project, profile="nowhere.yaml")


def test_a_page_of_the_table_of_contents_without_source_is_named(project):
    write_toc(project, "one", "three")
    with pytest.raises(MissingFileError, match=r"page of the table of contents at .*three\.md"):
        build_book(root=project)


def test_a_folder_without_a_book_is_told_where_there_is_one(tmp_path):
    with pytest.raises(MissingFileError, match="built in a clone of the project"):
        build_book(root=tmp_path)


def test_a_dry_run_lists_pages_parameters_and_downloads_and_runs_nothing(project, capsys):
    networks = ["digits/trades", "robustbench/cifar10/Linf/Ding2020MMA"]
    build_book(root=project, parameters={"names": [*networks, "cifar10"]}, dry_run=True)
    text = capsys.readouterr().out
    assert "one: would be executed\n    epsilon = 0.2\n" in text
    assert "two: would be executed\n    n = 4\n" in text
    needed = text.split("Needs files that are not shipped:")[1]
    assert "Ding2020MMA.pt (robustbench/cifar10/Linf/Ding2020MMA)" in needed
    assert "cifar10, unless it lies in" in needed
    assert "digits" not in needed
    assert not (project / "book").exists()


@pytest.mark.parametrize("profile", ["cifar10", "cifar100", "cifar10_l2", "imagenet"])
def test_a_dry_run_lists_for_every_page_what_it_would_download_and_compute(profile, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MARGINCONS_MODELS", str(tmp_path))
    monkeypatch.setenv("MARGINCONS_DATA", str(tmp_path))
    build_book(root=ROOT, profile=profile, dry_run=True, force=True)
    text = capsys.readouterr().out
    values = read_profile(profile, ROOT)
    paragraphs = dict(zip([page.name for page in book_pages(ROOT)], text.split("would be executed")[1:], strict=True))
    networks = len(values["model_ids"])
    for name in ("correlation", "detection"):
        assert (
            f"  would measure {networks} networks on the first 1000 images by minimum_norm (standard) "
            f"into runs/{profile}" in paragraphs[name]
        )
        assert f"  would download or ask for {networks + 1} of the files below" in paragraphs[name]
    assert f"measure {networks} networks on the first 1000 images by autoattack (standard)" in paragraphs["sanity"]
    weak = len(values["weak_ids"])
    assert f"measure {weak} networks on the first 1000 images by minimum_norm (standard)" in paragraphs["pseudo_margin"]
    assert "would" not in paragraphs["cifar10"].split("\n", 1)[1].split(":")[0]  # reads what is shipped
    for model_id in values["model_ids"]:
        assert (
            f"{robustbench_checkpoints(model_id)[0]} ({model_id})" in text.split("Needs files that are not shipped:")[1]
        )
    assert f"{values['dataset']}, unless it lies in {tmp_path}" in text


def test_a_plan_follows_names_back_to_the_parameters(tmp_path):
    (tmp_path / "notebooks" / "params").mkdir(parents=True)
    write_page(
        tmp_path,
        "one",
        "tables = {m: obtain(m, dataset, attack=attack, **options) for m in names[1:]}",
        "for extra in others:\n    more = obtain(chosen, dataset, attack=extra, effort='fast', records='')",
        "chosen = names[0]\nmodel = mc.load_model(chosen)\nmc.measure_images(model, images, attack=attack)",
        "for extra in others:\n    again = obtain(chosen, dataset, attack=extra, effort='fast')",
        parameters="names: list[str] = ['digits/a', 'digits/b']  # a\nattack: str = 'pgd'  # b\n"
        "records: str = ''  # c\nothers: list[str] = ['fab_paper', 'fgsm']  # d\n"
        "dataset: str = 'digits'  # e\nn_images: int = 0  # f",
    )
    write_toc(tmp_path, "one")
    write_profile(tmp_path, "{}")
    (page,) = book_pages(tmp_path)
    live = "measure 2 networks on all images by pgd (standard) and keep nothing"
    assert planned_measurements(page, {}) == [live]  # the rest reads shipped records
    assert planned_measurements(page, {"records": "runs", "n_images": 9, "names": ["digits/a"]}) == [
        "measure 1 network on the first 9 images by pgd (standard) into runs",
        "measure 1 network on the first 9 images by pgd (standard) and keep nothing",
        "measure 1 network on the first 9 images by fab_paper, fgsm (fast) into runs",
    ]


def test_a_plan_of_names_that_all_rest_on_each_other_is_made_at_once(tmp_path):
    (tmp_path / "notebooks" / "params").mkdir(parents=True)
    tangled = [f"x{i} = ({', '.join(f'x{j}' for j in range(40) if j != i)}, name)" for i in range(40)]
    write_page(tmp_path, "one", *tangled, "mc.measure_images(x0, images)", parameters="name: str = 'digits/a'  # a")
    write_toc(tmp_path, "one")
    write_profile(tmp_path, "{}")
    (page,) = book_pages(tmp_path)
    (line,) = planned_measurements(page, {})
    assert line.startswith("measure 1 network on ")


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Two pages of which the second fails, executed once; and what was said of it."""
    root = tmp_path_factory.mktemp("book")
    (root / "notebooks" / "params").mkdir(parents=True)
    write_page(root, "good", "import os\nprint(epsilon, names, os.environ['OMP_NUM_THREADS'])")
    write_page(root, "bad", "first = 1", "second = 2\nthird = second / (first - 1)")
    write_toc(root, "bad", "good")
    write_profile(root, "epsilon: 0.2\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execution, "PACKAGE", root / "notebooks")  # the package may be edited meanwhile
        patch.delenv("OMP_NUM_THREADS", raising=False)
        with pytest.raises(PageError) as caught:
            build_book(root=root)
        yield root, str(caught.value)


def test_a_page_that_fails_shows_its_cell_and_its_error(executed):
    _, text = executed
    assert text.startswith("1 of 2 pages failed: bad.")
    assert "bad.md, code cell 4:\n    second = 2\n    third = second / (first - 1)\n" in text
    assert text.endswith("ZeroDivisionError: division by zero")


def test_the_other_pages_still_run_and_no_output_is_half_written(executed):
    root, _ = executed
    assert sorted(path.name for path in (root / "book" / "executed").iterdir()) == ["good.ipynb", "good.key"]
    assert not (root / "_build").exists()


def test_an_executed_page_holds_its_parameters_folded_and_no_timings(executed):
    root, _ = executed
    notebook = nbformat.read(root / "book" / "executed" / "good.ipynb", as_version=4)
    assert outputs(notebook) == "0.2 ['a'] 1\n"
    (injected,) = [cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    assert "hide-input" in injected.metadata.tags
    assert injected.metadata.mystnb.code_prompt_show == "Parameters of this run"
    assert not [part for part in (notebook, *notebook.cells) if {"papermill", "execution"} & part.metadata.keys()]


def test_a_page_runs_again_only_when_something_it_follows_from_changed(executed, capsys):
    root, _ = executed
    output = root / "book" / "executed" / "good.ipynb"
    before = output.stat().st_mtime_ns
    build_book(root=root, pages=["good"])
    assert output.stat().st_mtime_ns == before
    text = capsys.readouterr().out
    assert "Pages: 0 to execute, 1 up to date" in text
    assert "Site: not built, because these pages were never executed: bad." in text
    assert f"Look at {output}, in any editor of notebooks." in text
    build_book(root=root, pages=["good"], parameters={"epsilon": 0.3})
    assert outputs(nbformat.read(output, as_version=4)) == "0.3 ['a'] 1\n"


def test_the_key_of_a_page_follows_source_parameters_package_and_records(project, monkeypatch):
    package, records = project / "package", project / "records"
    package.mkdir()
    records.mkdir()
    monkeypatch.setattr(execution, "PACKAGE", package)
    write_page(project, "one", parameters="records: str = ''  # folder\nn: int = 1  # images")

    def key(**parameters):
        return execution.page_keys(book_pages(project)[:1], {"one": parameters})["one"]

    seen = {key(), key(n=2), key(records=str(records))}
    (records / "shard.parquet").write_text("1")
    seen.add(key(records=str(records)))
    (package / "scores.py").write_text("1")
    seen.add(key())
    write_page(project, "one", "1 + 1", parameters="records: str = ''  # folder\nn: int = 1  # images")
    seen.add(key())
    assert len(seen) == 6
    assert key() == key()


def test_a_warning_of_sphinx_is_an_error_every_time_it_is_built(project):
    write_toc(project, "one")
    (project / "_config.yml").write_text("execute: {execute_notebooks: 'off'}\nonly_build_toc_files: true\n")
    write_profile(project, "{}")
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# One\n\nSee {doc}`nowhere`.")])
    output = project / "book" / "executed" / "one.ipynb"
    output.parent.mkdir(parents=True)
    nbformat.write(page, output)
    for _ in range(2):
        with pytest.raises(PageError, match="unknown document: 'nowhere'"):
            build_book(root=project, pages=[])


@pytest.mark.skipif(os.name != "posix", reason="sends the signal of Ctrl-C, which needs a POSIX system")
def test_ctrl_c_ends_the_driver_and_its_kernels(project):
    write_page(
        project, "one", "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(600)"
    )
    write_toc(project, "one")
    write_profile(project, "epsilon: 0.2\n")
    hear = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)"  # deaf when started by a shell's &
    call = f"{hear}\nfrom margincons.book import build_book\nbuild_book(root={str(project)!r})"
    pid = project / "pid"
    with subprocess.Popen(
        [sys.executable, "-c", call], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as driver:
        try:
            wait_until(lambda: pid.is_file() and pid.read_text())
            driver.send_signal(signal.SIGINT)
            assert driver.wait(timeout=30) != 0
        finally:
            driver.kill()
    kernel = int(pid.read_text())
    wait_until(lambda: not is_running(kernel))
    assert not list(project.glob("book/executed/*"))


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("profile", PROFILES)
def test_every_name_of_a_profile_is_declared_by_a_page_with_its_type(profile):
    assert page_parameters(book_pages(ROOT), read_profile(profile, ROOT))


@pytest.mark.parametrize("profile", PROFILES)
def test_the_networks_of_a_profile_exist(profile):
    assert set(read_profile(profile, ROOT).get("model_ids", [])) <= set(list_models())


def test_profiles_hold_the_radii_of_their_threat_models():
    profiles = {profile: read_profile(profile, ROOT) for profile in PROFILES}
    radii = {profile: (values["norm"], values["epsilon"]) for profile, values in profiles.items()}
    assert radii == {
        "digits": ("Linf", 0.1),
        "cifar10": ("Linf", 8 / 255),
        "cifar100": ("Linf", 8 / 255),
        "cifar10_l2": ("L2", 0.5),
        "imagenet": ("Linf", 4 / 255),
    }


def test_a_parameter_has_the_same_type_on_every_page():
    types = {}
    for page in book_pages(ROOT):
        for name, annotation in page.declared.items():
            assert types.setdefault(name, annotation) == annotation, f"{name} on {page.name}"


@pytest.mark.parametrize("source", sorted((ROOT / "notebooks").glob("*.md")), ids=lambda path: path.stem)
def test_papermill_reads_the_parameters_that_the_driver_reads(source, tmp_path):
    notebook = tmp_path / "page.ipynb"
    jupytext.write(jupytext.read(source, fmt="md:myst"), notebook)
    read = papermill.inspect_notebook(notebook)
    assert {name: about["inferred_type_name"] for name, about in read.items()} == declared_parameters(source)
    assert all(about["help"] for about in read.values()), "papermill shows the comment behind each parameter"
