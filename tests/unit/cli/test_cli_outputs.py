"""What commands write and print: nothing of the user's is replaced, nothing is checked last, no line is lost."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blemish.inspection import modelfile
from blemish.inspection.inspector import Inspector
from tests.fakes import good_image, write_images, write_mvtec
from tests.tiny import ROOT, Done, fit_tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model `m`, images `own` and a data set `set`, and beside them what is the user's."""
    folder = tmp_path_factory.mktemp("filled")
    made = fit_tiny(tmp_path_factory.mktemp("model"))
    modelfile.save(made, folder / "m")
    write_images(folder / "own", 3)
    write_mvtec(folder / "set", train=3, test=2)
    return folder


@pytest.fixture
def work(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it as the current folder."""
    shutil.copytree(filled, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def users(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another copy, with files of the user's in every place; nothing changes it."""
    folder = tmp_path_factory.mktemp("users")
    shutil.copytree(filled, folder, dirs_exist_ok=True)
    (folder / "link").symlink_to("own")
    (folder / "file").write_text("mine")
    (folder / "notes.html").write_text("<!doctype html><p>mine")
    (folder / "theirs").mkdir()
    for name in ("photo.png", "theirs/000.png", "theirs/000.npy", "theirs/notes.txt"):
        (folder / name).write_text("mine")
    return folder


@pytest.fixture
def still(users: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """That as the current folder; not a byte of it may change."""
    monkeypatch.chdir(users)
    before = state(users)
    yield users
    assert state(users) == before


def state(folder: Path) -> dict[str, str]:
    """Every file of a folder with the digest of its bytes."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def refused(done: Done, error: str, code: int = 1) -> None:
    """One `error:` line that says it, one `hint:` line, and nothing on stdout."""
    assert (done.code, done.out) == (code, ""), done.err
    first, second = done.err.splitlines()
    assert first.startswith("error: ")
    assert error in first
    assert second.startswith("hint: ")


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a command would do fails: what it refuses, it refuses before."""

    def called(*_: object, **__: object) -> None:
        raise AssertionError("work has begun")

    for name in ("fit", "calibrate", "extend", "adapt", "inspector"):
        monkeypatch.setattr(f"blemish.detector.Detector.{name}", called)
    for name in (
        "blemish.data.synthesis.image_set.damage",
        "blemish.inspection.on_ray.session",
        "blemish.evaluation.bench.run.run",
        "blemish.data.synthesis.cloud_set.damage",
    ):
        monkeypatch.setattr(name, called)


COMMANDS: dict[str, tuple[str, ...]] = {
    "inspect --maps": ("inspect", "m", "own", "--maps"),
    "inspect --raw-maps": ("inspect", "m", "own", "--raw-maps"),
    "inspect --out": ("inspect", "m", "own", "--engine", "ray", "--out"),
    "fit": ("fit", "own", "--method", "padim", "--out"),
    "calibrate": ("calibrate", "m", "own", "--out"),
    "extend": ("extend", "m", "own", "--category", "nut", "--out"),
    "adapt": ("adapt", "m", "own", "--out"),
    "demo": ("demo", "--data", "own", "--out"),
    "perlin": ("synthesize", "perlin", "own", "--out"),
    "texture": ("synthesize", "texture", "own", "--out"),
    "cutpaste": ("synthesize", "cutpaste", "own", "--out"),
    "bench": ("bench", "own", "--methods", "padim", "--out"),
    "evaluate --json": ("evaluate", "m", "own", "--json"),
    "evaluate --report": ("evaluate", "m", "own", "--report"),
    "power --html": ("power", "m", "own", "--html"),
    "power --json": ("power", "m", "own", "--json"),
}
FOLDERS = [name for name in COMMANDS if not name.startswith(("evaluate", "power"))]


@pytest.mark.usefixtures("no_work", "still")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("out", ["own", "own/below", "link", "link/below", "own/000.png", "m/heads", "file/below"])
def test_no_output_touches_what_is_read(run: Any, command: str, out: str) -> None:
    refused(run(*COMMANDS[command], out), out)


@pytest.mark.usefixtures("no_work", "still")
@pytest.mark.parametrize("command", FOLDERS)
@pytest.mark.parametrize("out", ["file", "theirs", "."])
def test_no_folder_of_outputs_takes_the_place_of_something(run: Any, command: str, out: str) -> None:
    refused(run(*COMMANDS[command], out), "")


@pytest.mark.usefixtures("no_work", "still")
@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in FOLDERS])
@pytest.mark.parametrize("out", ["photo.png", "notes.html", "none/x", "m"])
def test_no_page_takes_the_place_of_something(run: Any, command: str, out: str) -> None:
    refused(run(*COMMANDS[command], out), out)


def test_pages_and_figures_are_written_again(run: Any, work: Path) -> None:  # noqa: ARG001
    arguments = ("evaluate", "m", "set", "--json", "m.json", "--report", "r.html")
    assert run(*arguments).code == 0
    assert run(*arguments).code == 0
    refused(run("evaluate", "m", "set", "--json", "r.html"), "r.html")
    refused(run("evaluate", "m", "set", "--report", "m.json"), "m.json")
    refused(run("evaluate", "m", "set", "--report", "x", "--json", "./x"), "named by")
    write_images(Path("fresh"), 1, first=500)
    power = ("power", "m", "fresh", "--size", 6, "--contrast", 0.5, "--images", 1)
    assert run(*power, "--html", "p.html", "--json", "p.json").code == 0
    assert run(*power, "--html", "p.html", "--json", "p.json").code == 0


def test_an_empty_folder_is_fine_for_a_model(run: Any, work: Path) -> None:  # noqa: ARG001
    Path("empty").mkdir()
    write_images(Path("fresh"), 6, first=500)
    done = run("calibrate", "m", "fresh", "--out", "empty", "--false-alarm-rate", 0.2)
    assert done.code == 0, done.err
    assert modelfile.load("empty").promise


def test_a_model_with_something_of_the_users_in_it_is_not_replaced(run: Any, work: Path) -> None:
    write_images(Path("fresh"), 6, first=500)
    (work / "m" / "notes.txt").write_text("mine")
    before = state(work)
    refused(run("calibrate", "m", "fresh", "--false-alarm-rate", 0.2), "'notes.txt'")
    assert state(work) == before


@pytest.mark.usefixtures("no_work")
def test_models_of_categories_lie_in_folders_of_their_own(
    run: Any, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A category's name comes from data: it may not lead out of --out, whoever lets it through."""
    from blemish.data import layouts
    from blemish.types import Record

    records = [Record(str(p), work / "own" / p, group=g) for p, g in (("000.png", "../../x"), ("001.png", "nut"))]
    monkeypatch.setattr(layouts, "index", lambda *_, **__: records)
    checked: list[Path] = []

    def check(place: Path, **_: object) -> None:
        checked.append(place)
        if len(checked) == 2:
            raise modelfile.ModelFileError("enough")

    monkeypatch.setattr(modelfile, "check_place", check)
    refused(run("fit", "own", "--method", "padim", "--out", "out/models"), "enough")
    assert {path.parent for path in checked} == {Path("out/models")}
    assert all((work / path).resolve().parent == work / "out" / "models" for path in checked)


def test_maps_are_found_again(run: Any, work: Path) -> None:
    for name in ("a/000.png", "b/000.png", "b/000.tif"):
        (work / name).parent.mkdir(exist_ok=True)
        Image.fromarray(good_image(len(name))).save(name)
    done = run("inspect", "m", "a/000.png", "b", "--maps", "maps", "--raw-maps", "raw")
    assert done.code == 0, done.err
    map_paths = {row["image_path"]: (row["map"], row["raw_map"]) for row in done.rows}
    assert map_paths == {
        "a/000.png": ("maps/a/000.png", "raw/a/000.npy"),
        "b/000.png": ("maps/b/000_png.png", "raw/b/000_png.npy"),
        "b/000.tif": ("maps/b/000_tif.png", "raw/b/000_tif.npy"),
    }
    for overlay, raw in map_paths.values():
        assert np.load(raw).shape == np.asarray(Image.open(overlay)).shape[:2]
    again = run("inspect", "m", "b", "a/000.png", "--maps", "maps", "--raw-maps", "raw", "--format", "csv")
    rows = {row["image_path"]: (row["map"], row["raw_map"]) for row in csv.DictReader(io.StringIO(again.out))}
    assert rows == map_paths  # in whatever order, and written over the maps of the run before
    [row] = run("inspect", "m", "a/000.png").rows
    assert row["map"] is row["raw_map"] is None


def test_maps_beside_named_files_are_no_inputs_later(run: Any, work: Path) -> None:  # noqa: ARG001
    assert run("inspect", "m", "own/000.png", "--maps", "own/maps").code == 0
    for _ in range(2):
        done = run("inspect", "m", "own")
        assert len(done.rows) == 3
        assert "warning: own/maps: 1 maps that an earlier run drew" in done.err


def test_a_picture_of_the_users_among_maps_stays(run: Any, work: Path) -> None:  # noqa: ARG001
    assert run("inspect", "m", "own/000.png", "--maps", "maps").code == 0
    Path("maps/001.png").write_text("mine")
    refused(run("inspect", "m", "own", "--maps", "maps"), "maps/001.png: is there and is no map")
    assert Path("maps/001.png").read_text() == "mine"


def test_synthetic_defects_of_two_runs_are_never_mixed(run: Any, work: Path) -> None:
    arguments = ("synthesize", "perlin", "own", "--out", "made", "--no-sheet")
    assert run(*arguments).code == 0
    before = state(work / "made")
    assert run(*arguments).code == 0
    assert state(work / "made") == before
    for other in (("--seed", 1), ("--count", 2), ("--area", 0.1, 0.2), ("--images", 1)):
        refused(run(*arguments, *other), "nothing is mixed")
    write_images(Path("own2"), 3, first=40)
    refused(run("synthesize", "perlin", "own2", "--out", "made"), "nothing is mixed")
    assert state(work / "made") == before
    assert run("synthesize", "texture", "own", "--out", "made", "--no-sheet").code == 0  # a kind beside it


def test_errors_have_hints_and_are_counted(run: Any, work: Path) -> None:
    Path("empty").mkdir()
    Path("sub").mkdir()
    Path("sub/bad.png").write_text("no image")
    os.mkfifo("pipe.png")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("socket.png")
    names = ["own/000.png", "empty", "sub", "pipe.png", "socket.png", "/dev/null", "absent.png", "own/001.png"]
    try:
        done = run("inspect", "m", *names, "--maps", "maps")
    finally:
        listening.close()
    assert done.code == 1
    assert done.err == (
        "warning: 6 of 8 inputs could not be inspected: 3 x is no regular file (a pipe, socket or device), "
        "1 x no images in this folder, 1 x not an image, or damaged in its header, 1 x no such file\n"
    )
    assert [row["error"] is None for row in done.rows] == [True, *[False] * 6, True]
    for row in done.rows[1:-1]:
        assert row["hint"]
        assert row["image_path"] in row["error"]
        assert row["map"] is row["pred_score"] is None
    table = run("inspect", "m", *names[:3], "--format", "csv")
    bad = list(csv.DictReader(io.StringIO(table.out)))[1]
    assert bad["hint"] == done.rows[1]["hint"]
    refused(run("inspect", "m", "empty"), "no images in this folder")
    assert sorted(p.name for p in (work / "maps").rglob("*.png")) == ["000.png", "001.png"]


@pytest.mark.parametrize("arguments", [
    ("inspect", "m", ""), ("inspect", "", "own"), ("inspect", "m", "own", " "), ("inspect", "m", "own", "--maps", ""),
    ("inspect", "m", "own", "--maps="), ("fit", "", "--out", "x"), ("fit", "own", "--out", ""), ("evaluate", "m", ""),
    ("calibrate", "m", ""), ("adapt", "m", "own", "--out", "x", "--earlier", ""), ("power", "m", ""),
    ("synthesize", "perlin", "", "--out", "x"), ("bench", "", "--out", "x"), ("demo", "--data", ""),
    ("extend", "m", "", "--category", "x"), ("evaluate", "m", "set", "--report", ""),
])  # fmt: skip
@pytest.mark.usefixtures("still")
def test_an_empty_argument_is_a_variable_that_is_not_set(run: Any, arguments: tuple[str, ...]) -> None:
    refused(run(*arguments), "is empty", code=2)


def test_more_pixels_where_they_are_asked_for(run: Any, work: Path) -> None:  # noqa: ARG001
    shown = ("inspect", "m", "own/000.png", "--max-pixels")
    done = run(*shown, 1000)
    assert (done.code, done.rows[0]["pred_score"]) == (1, None)
    assert "is more than 1000 pixels" in done.rows[0]["error"]
    assert "--max-pixels" in done.rows[0]["hint"]
    assert run(*shown, 48 * 64).code == 0
    write_images(Path("fresh"), 6, first=500)
    arguments = ("calibrate", "m", "fresh", "--false-alarm-rate", 0.2, "--out", "wide", "--max-pixels")
    refused(run(*arguments, 1000), "is more than 1000 pixels")
    assert run(*arguments, 150_000_000).code == 0
    assert modelfile.load("wide").meta.preprocess["max_pixels"] == 150_000_000  # the model keeps it
    assert "max_pixels" not in modelfile.load("m").meta.preprocess
    done = run("evaluate", "m", "set", "--max-pixels", 1000)
    assert done.code == 1
    assert "is more than 1000 pixels" in done.err
    refused(run("synthesize", "perlin", "own/000.png", "--out", "x", "--max-pixels", 1000), "more than 1000 pixels")
    assert run(*shown, 10**9).code == 2  # Pillow reads none so large
    refused(run("inspect", "m", "own", "--rate", 250), "file_rate (--rate) means nothing to a model of images", code=2)


def interrupting(after: int, error: BaseException) -> Any:
    """`inspect_many` that is stopped behind so many results."""
    whole = Inspector.inspect_many

    def some(self: Inspector, sources: Any, **options: Any) -> Iterator[Any]:
        for number, result in enumerate(whole(self, sources, **options)):
            if number == after:
                raise error
            yield result

    return some


@pytest.mark.parametrize("form", ["table", "csv", "jsonl"])
def test_what_was_judged_before_ctrl_c_is_printed(
    run: Any, work: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(Inspector, "inspect_many", interrupting(2, KeyboardInterrupt()))
    done = run("inspect", "m", "own", "--format", form, "--maps", "maps")
    assert done.code == 130
    assert len(done.out.splitlines()) == (2 if form == "jsonl" else 3)
    assert "own/001.png" in done.out
    assert done.err.startswith("error: interrupted\nhint: ")
    assert list(json.loads((work / "maps" / ".blemish-maps.json").read_text())["maps"]) == ["000.png", "001.png"]


def test_a_plan_of_a_cluster_that_cannot_be_read_is_no_traceback(run: Any, work: Path) -> None:
    (work / "rows").mkdir()
    (work / "rows" / "_plan.json").write_text('{"images": 3, ')
    refused(run("inspect", "m", "own", "--engine", "ray", "--out", "rows"), "_plan.json: describes no run")


def test_sigterm_is_a_way_to_stop(run: Any, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    whole = Inspector.inspect_many

    def killed(self: Inspector, sources: Any, **options: Any) -> Iterator[Any]:
        for number, result in enumerate(whole(self, sources, **options)):
            if number == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            yield result

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Inspector, "inspect_many", killed)
    done = run("inspect", "m", "own", "--format", "table")
    assert done.code == 143
    assert len(done.out.splitlines()) == 3
    assert done.err.startswith("error: terminated\nhint: ")
    assert signal.getsignal(signal.SIGTERM) is before


def blemish(*arguments: object, shell: str = "", **env: str) -> subprocess.CompletedProcess[bytes]:
    """A process of its own, with streams as they come."""
    words = [sys.executable, "-c", "from blemish.cli import main; main()", *map(os.fsencode, map(str, arguments))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **env}
    command: Any = ["sh", "-c", f'exec "$@" {shell}', "sh", *words] if shell else words
    return subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)


LATIN = os.fsdecode(b"caf\xe9.png")  # a name from a disk that was written in Latin-1
NAMES = ["\u90e8\u54c1.png", LATIN, "a\nb\x1b[31m.png"]


@pytest.mark.parametrize("form", ["jsonl", "csv", "table"])
@pytest.mark.parametrize("env", [
    {"PYTHONIOENCODING": "cp1252"}, {"PYTHONIOENCODING": "utf-8:strict"}, {"PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
], ids=["cp1252", "strict", "ascii", "C"])  # fmt: skip
def test_no_line_is_lost_to_a_name(work: Path, form: str, env: dict[str, str]) -> None:  # noqa: ARG001
    try:
        for name in NAMES:
            shutil.copy("own/000.png", name)
    except OSError:
        pytest.skip("this file system takes no such names")
    extra = [] if form == "table" else ["--maps", "maps"]
    done = blemish("inspect", "m", "own/000.png", *NAMES, "own/001.png", "--format", form, *extra, **env)
    assert (done.returncode, done.stderr) == (0, b"")
    out = done.stdout.decode("utf-8")  # whatever the locale says
    if form == "table":
        assert len(out.splitlines()) == 6
        assert "\x1b" not in out
    elif form == "csv":
        assert len(list(csv.reader(io.StringIO(out)))) == 6
    else:
        rows = [json.loads(line) for line in out.splitlines()]
        assert [row["error"] for row in rows] == [None] * 5
        assert all(Path(os.fsdecode(os.fsencode(row["map"]))).is_file() for row in rows)
    if env.get("LC_ALL") != "C" and form != "jsonl":
        assert NAMES[0] in out
        assert "caf\\udce9.png" in out
    assert "001.png" in out.splitlines()[-1]


def test_names_that_are_no_text_come_through_the_other_commands(run: Any, work: Path) -> None:
    try:
        shutil.copy("own/000.png", work / "own" / LATIN)
        shutil.copy("own/000.png", work / "set" / "test" / "good" / LATIN)
    except OSError:
        pytest.skip("this file system takes no such names")
    done = run("evaluate", "m", "set", "--json", "m.json", "--report", "r.html")
    assert done.code == 0, done.err
    assert "caf" in Path("r.html").read_bytes().decode("utf-8")
    done = run("synthesize", "perlin", "own", "--out", "made")
    assert done.code == 0, done.err
    assert (work / "made" / "test" / "good" / LATIN).is_file()


@pytest.mark.parametrize(("shell", "code", "error"), [
    (">&-", 1, b"error: standard output is closed"), ("<&- >&-", 1, b"error: standard output is closed"),
    ("> /dev/full", 1, b"No space left on device"), ("2>&- <&-", 0, b""),
])  # fmt: skip
def test_streams_that_are_closed_or_full(work: Path, shell: str, code: int, error: bytes) -> None:  # noqa: ARG001
    if "/dev/full" in shell and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    done = blemish("inspect", "m", "own", "--format", "csv", shell=shell)
    assert done.returncode == code
    assert error in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    assert len(done.stderr.splitlines()) == (2 if code else 0)
    assert len(done.stdout.splitlines()) == (0 if code else 4)


@pytest.mark.parametrize("cache", ["file", "file/below", "gone", "/dev/null"])
def test_a_cache_that_is_no_folder_is_a_warning(work: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from blemish.learning.backbones.cache import usable_cache

    Path("file").write_text("mine")
    Path("gone").symlink_to("nowhere")
    monkeypatch.setenv("BLEMISH_CACHE", cache)
    with pytest.warns(UserWarning, match="no feature cache: ") as caught:
        assert usable_cache() is None
    assert len(caught) == 1
    monkeypatch.setenv("BLEMISH_CACHE", str(work / "new"))
    assert usable_cache() is not None
    assert not (work / "new").exists()


def test_a_cache_that_breaks_meanwhile_warns_once(tmp_path: Path) -> None:
    from blemish.learning.backbones.cache import FeatureCache

    cache = FeatureCache(tmp_path / "cache")
    (tmp_path / "cache").write_text("no folder")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in ("a", "b", "c"):
            cache.put_blob(name, b"x")
            assert cache.get_blob(name) is None
            cache.drop_blob(name)
    assert all("feature cache could not be" in str(w.message) for w in caught)
    assert len(caught) == 2  # once for reading, once for writing
    assert cache.describe()["entries"] == 0
