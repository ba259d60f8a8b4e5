"""Adding an option of a fit touches one file: a line in options.py, and all that shows or takes options has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from blemish.learning import options
from tests.fakes import write_images
from tests.tiny import python

LINES = """
    grain: float | None = option(0.5, "Share of grain, 0 to 1.", "Training", flag="--grain-share", later=True)
    shadows: bool = option(True, "Shadows are drawn.", "Training", later=True)
    tones: tuple[int, ...] = option((1, 2), "Tones.", "Training", flag="--tone", later=True)
"""
SCRIPT = """
import contextlib, importlib.util, inspect, io, json, sys
spec = importlib.util.spec_from_file_location("blemish.learning.options", sys.argv[1])
sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[spec.name])

from blemish import ConfigError, Detector, config
from blemish.cli import fit, main
from blemish.cli.app import commands
from blemish.cli.reference import options_page, page
from blemish.evaluation.bench.cell import _named
from tests.fakes import FakeBackbone

def refused(call):
    try:
        call()
    except ConfigError as error:
        return [str(error), error.hint]

flag = next(p for p in commands()["fit"].params if p.name == "grain")
out = {"flag": [flag.opts, flag.default, flag.help], "pages": [page(), options_page()]}
out["help"] = repr(inspect.signature(Detector).parameters["grain"].default)

folder = sys.argv[2]
detector = Detector("padim", backbone=FakeBackbone(), image_size="64x48", calibration="none", cache=False, grain=0.25)
detector.fit(folder + "/good").save(folder + "/model")
out["run"] = json.load(open(folder + "/model/run.json"))["grain"]
out["near"] = refused(lambda: Detector("padim", grains=0.25))
out["bad"] = refused(lambda: Detector("padim", grain="much"))
out["set"] = refused(lambda: fit.chosen({}, None, ["grain=1"]))
out["digest"] = ["grain" in _named(config.to_json(fit.by_name({"grain": value}))) for value in (0.5, 0.6)]

seen = []
fit.run = lambda *given: seen.append([getattr(fit.by_name(given[2]), name) for name in ("grain", "shadows", "tones")])
for arguments in ([], ["--grain-share", "0.75"], ["--recipe", folder + "/model/run.json"],
                  ["--no-shadows", "--tone", "3"]):
    with contextlib.suppress(SystemExit):
        main(["fit", folder + "/good", "--out", folder + "/m", *arguments])
out["typed"] = seen
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process says whose options.py, and no other file, has three lines more."""
    folder = tmp_path_factory.mktemp("grown")
    write_images(folder / "good", 4)
    text = Path(options.__file__).read_text(encoding="utf-8")
    before = "    seed: int = option("
    assert text.count(before) == 1
    (folder / "options.py").write_text(text.replace(before, LINES + before), encoding="utf-8")
    done = python("-c", SCRIPT, str(folder / "options.py"), str(folder))
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return printed


def test_the_command_line_has_it(grown: dict[str, Any]) -> None:
    assert grown["flag"] == [["--grain-share"], 0.5, "Share of grain, 0 to 1."]
    assert grown["typed"] == [[0.5, True, [1, 2]], [0.75, True, [1, 2]], [0.25, True, [1, 2]], [0.5, False, [3]]]
    assert "'grain' is an option of fit" in grown["set"][0]


def test_detector_has_it(grown: dict[str, Any]) -> None:
    assert grown["help"] == "0.5"
    assert grown["run"] == 0.25
    assert grown["near"] == ["unknown option 'grains'", "did you mean 'grain'?"]
    assert "option 'grain'" in grown["bad"][0]


def test_the_pages_have_it(grown: dict[str, Any]) -> None:
    commands, table = grown["pages"]
    assert "| `--grain-share` | `0.5` | Share of grain, 0 to 1. |" in commands
    assert "| `--shadows`, `--no-shadows` | `on` | Shadows are drawn. |" in commands
    assert "| `tones` | `--tone` | integer, several | `1, 2` | Tones. |" in table
    assert "| `grain` | `--grain-share` | number | `0.5` | Share of grain, 0 to 1. |" in table


def test_results_with_its_default_keep_their_digest(grown: dict[str, Any]) -> None:
    assert grown["digest"] == [False, True]
