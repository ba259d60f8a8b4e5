"""The wheel, built from the source archive and installed alone: what its users get, without PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement  # pytest brings it

import blemish
from blemish import Detector
from blemish.inspection import modelfile
from tests.fakes import defective_image, write_images
from tests.light.parts import write
from tests.tiny import RATE, ROOT, fit_tiny

for tool in ("build", "hatchling", "twine"):
    pytest.importorskip(tool, reason=f"{tool} is not installed: pip install 'blemish[dev]'")

TRAINING = ("torch", "torchvision", "timm", "onnxruntime", "scipy")
SOURCE = Path(blemish.__file__).parent


def process(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """One command, which finds nothing of the checkout."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
    words = tuple(map(os.fspath, words))  # type: ignore[arg-type]
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)


def run_module(*words: object, cwd: Path) -> None:
    """A command of this environment, which has to succeed."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive, and the wheel that was built from it; without a network."""
    folder = tmp_path_factory.mktemp("built")
    run_module("build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def test_the_registry_would_take_them(built: Path) -> None:
    run_module("twine", "check", "--strict", *sorted(map(str, built.iterdir())), cwd=built)


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(only(built, "*.whl")) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        (about,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = wheel.read(about).decode()
    files = {p for p in SOURCE.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert names == {f"blemish/{path.relative_to(SOURCE).as_posix()}" for path in files}
    assert "blemish/py.typed" in names
    assert f"\nVersion: {blemish.__version__}\n" in metadata
    assert "\nRequires-Python: >=3.11\n" in metadata
    assert "\nLicense-File: LICENSE\n" in metadata


def test_the_archive_holds_what_tests_need(built: Path) -> None:
    with tarfile.open(only(built, "*.tar.gz")) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "Makefile", "tests/light/bracket.blemish/graph.onnx"} <= inside
    assert not {name for name in inside if "__pycache__" in name or name.startswith((".venv", "demo/"))}


def needed(names: list[str]) -> dict[str, Distribution]:
    """These distributions and all that they require, by name; extras stand apart, as pip has it."""
    found: dict[str, Distribution] = {}
    while names:
        requirement = Requirement(names.pop())
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = requirement.name.lower().replace("_", "-")
        if name not in found:
            found[name] = distribution(name)
            names += found[name].requires or []
    return found


def link(distributions: dict[str, Distribution], site: Path) -> None:
    """Put packages that are installed here into another environment, as links: no network, and nothing else."""
    for name, found in distributions.items():
        tops = {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}
        assert tops, name
        for top in tops:
            target = Path(os.fspath(found.locate_file(top)))
            if not (site / top).exists():
                (site / top).symlink_to(target, target_is_directory=target.is_dir())


@pytest.fixture(scope="module")
def alone(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the wheel and what it requires; pytest too, to ask it questions."""
    home = tmp_path_factory.mktemp("alone") / "venv"
    run_module("venv", "--without-pip", home, cwd=home.parent)
    python = home / "bin" / "python"
    wheel = only(built, "*.whl")
    run_module(
        "pip", "--python", python, "install", "--no-index", "--no-deps", "--no-cache-dir", wheel, cwd=home.parent
    )
    site = next((home / "lib").glob("python*")) / "site-packages"
    (about,) = site.glob("blemish-*.dist-info")
    link(needed(list(Distribution.at(about).requires or [])), site)
    link(needed(["pytest"]), site)
    return python


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside the checkout, with a model and parts."""
    folder = tmp_path_factory.mktemp("bench")
    modelfile.save(fit_tiny(folder), folder / "bracket.blemish")
    write_images(folder / "more_good", 12, first=500)
    write(folder / "new" / "spot.png", defective_image(900)[0])
    return folder


def test_it_is_the_wheel_and_there_is_no_pytorch(alone: Path, tmp_path: Path) -> None:
    code = (
        "import blemish, json, sys\nfrom importlib.util import find_spec\n"
        f"there = [name for name in {TRAINING!r} if find_spec(name)]\n"
        "print(json.dumps([blemish.__file__, there, 'torch' in sys.modules]))"
    )
    done = process(alone, "-W", "error", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    where, installed, loaded = json.loads(done.stdout)
    assert Path(where).is_relative_to(alone.parents[1])
    assert (installed, loaded) == ([], False)


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["doctor"], ["methods"], ["backbones"], ["cache"]])
def test_it_says_what_it_is(alone: Path, tmp_path: Path, words: list[str]) -> None:
    done = process(alone.with_name("blemish"), *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert words != ["--version"] or done.stdout.strip() == blemish.__version__


def test_it_inspects_as_the_whole_does(alone: Path, bench: Path) -> None:
    done = process(alone.with_name("blemish"), "inspect", "bracket.blemish", "new", "--maps", "maps", cwd=bench)
    assert (done.returncode, done.stderr) == (0, "")
    line = json.loads(done.stdout)
    assert line["pred_label"] == "anomalous"
    assert (bench / line["map"]).is_file()
    whole = Detector.load(bench / "bracket.blemish").inspect(bench / "new" / "spot.png")
    assert line["pred_score"] == pytest.approx(whole.score, rel=1e-6)


def test_it_calibrates(alone: Path, bench: Path) -> None:
    words = ("calibrate", "bracket.blemish", "more_good", "--out", "strict.blemish")
    done = process(alone.with_name("blemish"), *words, "--false-alarm-rate", str(RATE / 2), cwd=bench)
    assert done.returncode == 0, done.stderr
    assert str(modelfile.load(bench / "strict.blemish").promise).startswith("at most 0.1 of good parts rejected")


def test_it_learns_what_the_whole_learns(alone: Path, bench: Path) -> None:
    words = ("fit", "more_good", "--out", "own.blemish", "--image-size", "64", "--calibration", "none", "--no-cache")
    done = process(alone.with_name("blemish"), *words, cwd=bench)
    assert done.returncode == 0, done.stderr
    here = (
        Detector(image_size=64, calibration="none", cache=False)
        .fit(bench / "more_good")
        .inspect(bench / "new" / "spot.png")
    )
    assert Detector.load(bench / "own.blemish").inspect(bench / "new" / "spot.png").score == pytest.approx(
        here.score, rel=1e-6
    )


def test_it_says_what_training_needs(alone: Path, bench: Path) -> None:
    words = ("fit", "more_good", "--out", "no.blemish", "--method", "rd")
    done = process(alone.with_name("blemish"), *words, cwd=bench)
    assert done.returncode == 1
    assert "is not installed" in done.stderr
    assert "pip install 'blemish[train]'" in done.stderr


def test_it_passes_the_light_tests(alone: Path, tmp_path: Path) -> None:
    light = ROOT / "tests" / "light"
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "--basetemp", tmp_path / "t", "--confcutdir", light, light)
    done = process(alone, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
