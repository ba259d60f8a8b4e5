"""Power: rates are those of the model's own verdicts, on images that it has not seen."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blemish.cli import main
from blemish.detector import Detector
from blemish.errors import ConfigError, DataError
from blemish.evaluation.power import Cell, Power, power
from blemish.evaluation.report.power_page import answers, write_power
from blemish.inspection.modelfile import Model, save
from blemish.types import Record
from tests.fakes import defective_image, write_images
from tests.tiny import fit_tiny


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("power")


@pytest.fixture(scope="module")
def model(work: Path) -> Model:
    return fit_tiny(work, write_images(work / "good", 20))


@pytest.fixture(scope="module")
def fresh(work: Path) -> list[Record]:
    return write_images(work / "fresh", 12, first=400)


def measured(model: Model, records: list[Record], **options: object) -> Power:
    line = Detector.from_model(model).inspector()
    return power(line, records, model=model.describe(), **options)  # type: ignore[arg-type]


def test_strong_large_probes_are_found_and_faint_small_ones_are_not(model: Model, fresh: list[Record]) -> None:
    found = measured(model, fresh, kinds=["spot"], sizes=[2, 16], contrasts=[0.01, 0.5])
    rates = {(c.size, c.contrast): c.found for c in found.cells}
    assert rates[16, 0.5] == 12
    assert rates[2, 0.01] <= found.false_alarms + 1
    assert rates[16, 0.5] >= rates[16, 0.01]
    assert found.smallest("spot", 0.01) is None
    assert found.smallest("spot", 0.5) in (2, 16)
    located = next(c.located for c in found.cells if (c.size, c.contrast) == (16, 0.5))
    assert located >= 10


def test_the_baseline_is_the_verdict_on_untouched_images(model: Model, fresh: list[Record]) -> None:
    found = measured(model, fresh, kinds=["spot"], sizes=[4], contrasts=[0.1])
    line = Detector.from_model(model).inspector()
    assert found.false_alarms == sum(r.verdict == "anomalous" for r in line.inspect_many(r.path for r in fresh))
    assert found.promised == model.calibrators["f32"].alpha
    assert found.images == 12


def test_images_that_the_model_knows_are_left_out(model: Model, work: Path, fresh: list[Record]) -> None:
    known = [Record(p.name, p) for p in sorted((work / "good").glob("*.png"))]
    with pytest.warns(UserWarning, match="20 of 32 good images were learned or calibrated from"):
        assert measured(model, [*known, *fresh], kinds=["spot"], sizes=[4], contrasts=[0.1]).images == 12
    with pytest.raises(DataError, match="no good image is left"), pytest.warns(UserWarning, match="20 of 20"):
        measured(model, known)


def test_defective_images_are_no_good_ones(model: Model, work: Path, fresh: list[Record]) -> None:
    Image.fromarray(defective_image(1)[0]).save(work / "bad.png")
    bad = Record("bad.png", work / "bad.png", "test", 1)
    assert measured(model, [*fresh, bad], kinds=["spot"], sizes=[4], contrasts=[0.1]).images == 12


def test_the_same_seed_gives_the_same_figures(model: Model, fresh: list[Record]) -> None:
    options = {"kinds": ["scratch"], "sizes": [12], "contrasts": [0.1, 0.2], "images": 6}
    first, again, other = (measured(model, fresh, seed=s, **options) for s in (0, 0, 1))
    assert first == again
    assert [c.of for c in first.cells] == [6, 6]
    assert first.examples[0][1] != other.examples[0][1]


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_deep_images_are_changed_in_their_own_type(model: Model, work: Path, dtype: str) -> None:
    import tifffile

    folder = work / dtype
    folder.mkdir()
    for i in range(4):
        pixels = np.array(Image.open(work / "fresh" / f"{400 + i}.png")).mean(2)
        deep = (pixels * 257).astype("uint16") if dtype == "uint16" else (pixels / 255).astype("float32")
        tifffile.imwrite(folder / f"{i}.tif", deep)
    records = [Record(p.name, p) for p in sorted(folder.glob("*.tif"))]
    found = measured(model, records, kinds=["spot"], sizes=[16], contrasts=[0.5])
    assert found.cells[0].found == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": ["scrach"]}, "no kind of probe 'scrach'"),
        ({"sizes": [0.5]}, "at least 1"),
        ({"contrasts": [1.5]}, "above 0 and at most 1"),
        ({"images": 0}, "at least one image"),
    ],
)
def test_what_makes_no_sense_is_refused(
    model: Model, fresh: list[Record], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        measured(model, fresh, **options)


def test_a_model_without_a_threshold_has_no_power(work: Path, fresh: list[Record]) -> None:
    plain = fit_tiny(work, write_images(work / "good2", 6, first=60), calibration="none")
    with pytest.raises(ConfigError, match="has none"):
        measured(plain, fresh)


def test_the_smallest_size_holds_for_all_larger_ones() -> None:
    def made(*found: int) -> Power:
        cells = tuple(Cell("spot", size, 0.2, n, n, 10) for size, n in zip((4.0, 8.0, 16.0), found, strict=True))
        return Power({}, 0.05, "a promise", (48, 64), 10, 0, cells, 0)

    assert made(10, 9, 9).smallest("spot", 0.2) == 4
    assert made(10, 8, 9).smallest("spot", 0.2) == 16
    assert made(10, 10, 8).smallest("spot", 0.2) is None
    assert answers(made(1, 9, 10)) == ["Spots are found in at least 90% of cases from 8 px at 20% contrast."]
    assert answers(made(1, 1, 1)) == ["Spots are found in at least 90% of cases at no size that was tried."]


def test_json_and_page(model: Model, fresh: list[Record], tmp_path: Path) -> None:
    found = measured(model, fresh, images=3)
    found.save_json(tmp_path / "power.json")
    values = json.loads((tmp_path / "power.json").read_text(encoding="utf-8"))
    assert len(values["cells"]) == 3 * 4 * 4  # two of the usual sizes are one in so small an image
    assert all(c["low"] <= c["rate"] <= c["high"] for c in values["cells"])
    assert "examples" not in values
    write_power(tmp_path / "power.html", found)
    page = (tmp_path / "power.html").read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=[\"']?http", page)
    assert page.count('<svg class="plot"') == 3
    assert page.count("data:image/jpeg") == 12
    assert "no method learns from" in page.replace("\n", " ")


def test_the_command(model: Model, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(model, tmp_path / "m")
    files = ["--html", str(tmp_path / "p.html"), "--json", str(tmp_path / "p.json")]
    probes = ["--kind", "spot", "--size", "16", "--contrast", "0.5", "--images", "3"]
    with pytest.raises(SystemExit) as end:
        main(["power", str(tmp_path / "m"), str(work / "fresh"), *files, *probes])
    printed = capsys.readouterr().out
    assert end.value.code == 0, printed
    assert "3 good images" in printed
    assert "100%" in printed
    assert {p.name for p in tmp_path.iterdir()} >= {"p.html", "p.json"}
