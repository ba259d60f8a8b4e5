"""What is loaded when: the package is free, the command line is light, and statistics need no PyTorch."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

import blemish
from blemish.inspection import modelfile
from tests.fakes import write_images, write_mvtec
from tests.tiny import RATE, fit_tiny, python

# Typer may bring pydantic for the command line; the library's inspecting side never asks for it.
BLOCKED = ("torch", "torchvision", "timm", "scipy", "matplotlib", "onnxruntime")
LEARNING = (*BLOCKED, "onnx", "safetensors", "pydantic")
HEAVY = ("numpy", "cv2", "openvino", "PIL", *BLOCKED)


@pytest.mark.parametrize("name", blemish.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(blemish, name) is not None
    assert name in dir(blemish)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'detector_'"):
        _ = blemish.detector_


def test_type_checkers_see_the_same_names() -> None:
    text = Path(blemish.__file__).read_text(encoding="utf-8")
    for name in set(blemish.__all__) - {"__version__"}:
        assert f"import {name} as {name}\n" in text


@pytest.mark.parametrize(
    "code",
    [
        "import blemish; blemish.BlemishError",
        "from blemish.cli import main\ntry: main(['--help'])\nexcept SystemExit as e: assert e.code == 0",
        "from blemish.cli import main\ntry: main(['fit', '--help'])\nexcept SystemExit as e: assert e.code == 0",
    ],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    done = python("-c", f"{code}\nimport sys\nprint('\\n' + ' '.join(m for m in {HEAVY!r} if m in sys.modules))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ""


def test_inspecting_names_loads_no_torch() -> None:
    modules = ["detector", "evaluation.evaluate", "inspection.modelfile", "inspection.inspector", "methods", "cli.demo"]
    modules += ["evaluation.report.page", "data.layouts"]
    imports = "; ".join(f"import blemish.{m}" for m in modules)
    done = python("-c", f"{imports}; import sys; print([m for m in {LEARNING!r} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


_WITHOUT = """
import contextlib, importlib.abc, importlib.util, io, json, sys
from pathlib import Path

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.partition('.')[0] in BLOCKED else real(name, *rest)
folder = Path(sys.argv[1])
out = {}

from blemish import Detector
from blemish.data.image.decode import read_image
detector = Detector.load(folder / 'model')
image = folder / 'set' / 'test' / 'spot' / '000.png'
out['file'] = detector.inspect(image).score
out['array'] = detector.inspect(read_image(image)).score
out['many'] = [r.score for r in detector.inspect_many([image, image])]
out['promise'] = detector.calibrate(folder / 'fresh', false_alarm_rate=RATE).promise
out['auroc'] = detector.evaluate(folder / 'set').overall.image.auroc.value
detector.save(folder / 'again')
out['loaded'] = [m for m in LEARNING if m in sys.modules]

from blemish.cli import main
def cli(*arguments):
    said, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
        try:
            main([str(a) for a in arguments])
        except SystemExit as end:
            return [end.code, said.getvalue(), told.getvalue()]

out['cli'] = {
    'inspect': cli('inspect', folder / 'model', image, '--maps', folder / 'maps'),
    'evaluate': cli('evaluate', folder / 'model', folder / 'set', '--report', folder / 'report.html'),
    'calibrate': cli('calibrate', folder / 'model', folder / 'fresh', '--false-alarm-rate', RATE),
    'help': cli('--help'), 'methods': cli('methods', '--json'), 'backbones': cli('backbones'), 'cache': cli('cache'),
    'doctor': cli('doctor'),
}
out['fit'] = cli('fit', folder / 'fresh', '--out', folder / 'learned', '--false-alarm-rate', RATE)
out['learned'] = cli('inspect', folder / 'learned', image)
out['train'] = cli('fit', folder / 'fresh', '--out', folder / 'no', '--method', 'rd')
out['deep'] = cli('fit', folder / 'fresh', '--out', folder / 'no', '--backbone', 'efficientnet_lite1')
out['second'] = cli('inspect', folder / 'model', image, '--engine', 'onnxruntime')
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a process in which the learning side cannot be imported came to."""
    folder = tmp_path_factory.mktemp("without")
    modelfile.save(fit_tiny(folder), folder / "model")
    write_mvtec(folder / "set", train=2)
    write_images(folder / "fresh", 6, first=500)
    script = _WITHOUT.replace("BLOCKED", repr(BLOCKED)).replace("LEARNING", repr(LEARNING)).replace("RATE", repr(RATE))
    done = python("-W", "error", "-c", script, str(folder), env={"BLEMISH_CACHE": str(folder / "cache")})
    assert done.returncode == 0, done.stderr
    outcome: dict[str, object] = json.loads(done.stdout)
    return outcome


def test_inspects_without_the_learning_side(without: dict[str, object]) -> None:
    assert without["loaded"] == []
    assert without["many"] == [without["file"]] * 2
    assert without["array"] == without["file"]
    assert str(without["promise"]).startswith("at most 0.2 of good parts rejected")
    assert without["auroc"] == 1


@pytest.mark.parametrize(
    "command", ["inspect", "evaluate", "calibrate", "help", "methods", "backbones", "cache", "doctor"]
)
def test_command_runs_without_the_learning_side(without: dict[str, dict[str, list[object]]], command: str) -> None:
    code, stdout, stderr = without["cli"][command]
    assert (code, stderr if command != "doctor" else "") == (0, "")
    assert stdout


def test_statistics_are_learned_without_pytorch(without: dict[str, list[object]]) -> None:
    code, stdout, stderr = without["fit"]
    assert (code, "error" in str(stderr)) == (0, False)
    assert json.loads(str(stdout))["method"] == "patchcore"
    assert json.loads(str(without["learned"][1]))["pred_score"] > 0


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("train", "is not installed"),
        ("deep", "needs PyTorch"),
        ("second", "onnxruntime is not installed"),
    ],
)
def test_what_needs_more_than_the_core_says_so(without: dict[str, list[str]], what: str, error: str) -> None:
    code, stdout, stderr = without[what]
    assert (code, stdout) == (1, "")
    first, second = stderr.splitlines()[-2:]
    assert first.startswith("error: ")
    assert error in first
    assert second.startswith("hint: pip install")


def test_modules_can_each_be_imported_first() -> None:
    """No import cycle hides behind the order of imports: each module is loaded in a fresh state of the package."""
    for path in sorted(Path(blemish.__file__).parent.rglob("*.py")):
        relative = path.relative_to(Path(blemish.__file__).parent).with_suffix("")
        if "migrations" in relative.parts:  # Alembic runs these itself
            continue
        assert importlib.import_module(".".join(["blemish", *relative.parts]).removesuffix(".__init__"))
