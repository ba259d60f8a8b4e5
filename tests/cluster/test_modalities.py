"""Inspection on a cluster, of every modality and of models with a head for each category: the local engine's rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray", reason="ray is not installed: pip install 'blemish[ray]'")

from blemish import Detector
from blemish.cli import main
from blemish.data import registry
from blemish.data import storage as places
from blemish.errors import ConfigError, DataError
from blemish.inspection import modelfile
from blemish.inspection import on_ray as cluster
from blemish.inspection.modelfile import Model
from tests.fakes import good_cloud
from tests.tiny import ROUTED, fit_tiny
from tests.unit.data.signal.test_preprocess import annotated, beats, write_record
from tests.unit.learning.test_multiclass import write
from tests.unit.test_detector_clouds import bad_cloud, cloud_of
from tests.unit.test_detector_signals import OPTIONS

pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("ResourceWarning", "DeprecationWarning")]


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "PART", 4)


def local(model: Model, source: str) -> list[dict[str, Any]]:
    """What `blemish inspect` gives for a folder, file by file."""
    kind, line = registry.of(model.meta), Detector.from_model(model).inspector(threads=1)
    rows: list[dict[str, Any]] = []
    for path in places.files([source], type(kind)):
        try:
            found = kind.sources(Path(path))
        except DataError as error:
            rows.append({"image_path": path, "regions": [], "error": str(error)})
            continue
        for result in line.inspect_many(found, errors="yield"):
            wrong = isinstance(result, DataError)
            rows.append({"image_path": path, "error": str(result)} if wrong else result.to_json())
    return rows


def same(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(rows) == len(expected)
    for row, wanted in zip(rows, expected, strict=True):
        assert {k: row[k] for k in wanted if k != "seconds"} == {k: v for k, v in wanted.items() if k != "seconds"}


def run(model: Model, source: str, out: Path) -> list[dict[str, Any]]:
    """The rows of a run on the cluster, which are those of the local engine."""
    summary = cluster.inspect(model, [source], str(out), workers=2)
    rows: list[dict[str, Any]] = cluster.read(str(out)).to_pylist()
    same(rows, local(model, source))
    assert summary["rows"] == summary["images"] == len(rows)
    return rows


@pytest.mark.usefixtures("ray")
def test_a_model_with_a_head_for_each_category(tmp_path: Path) -> None:
    records = [record for kind in ("stripes", "checks") for record in write(tmp_path / "good", kind, 12)]
    model = fit_tiny(tmp_path, records, method=ROUTED[0], options={"head": "padim"})
    assert model.heads
    for kind in ("stripes", "checks"):
        write(tmp_path / "new", kind, 4, 100)
    rows = run(model, str(tmp_path / "new"), tmp_path / "out")
    assert [row["category"] for row in rows] == ["checks"] * 4 + ["stripes"] * 4


@pytest.fixture(scope="module")
def of_signals(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    """A model of recordings; new ones of several windows, and one that is no recording."""
    folder = tmp_path_factory.mktemp("signals")
    annotated(folder / "set", ["101", "106", "108", "109"], 40)
    model = Detector(**{**OPTIONS, "steps": 4}).fit(folder / "set").model
    for k, seconds in enumerate((14, 9)):
        write_record(folder / "new", f"r{k}", beats(seconds, seed=9 + k), leads=("MLII", "V1"))
    (folder / "new" / "bad.hea").write_text("nothing", encoding="utf-8")
    return model, folder / "new"


@pytest.mark.usefixtures("ray")
def test_each_window_of_a_recording_is_a_row(of_signals: tuple[Model, Path], tmp_path: Path) -> None:
    model, given = of_signals
    new, out = tmp_path / "new", tmp_path / "out"
    shutil.copytree(given, new)
    rows = run(model, str(new), out)
    assert [Path(row["image_path"]).stem for row in rows] == ["bad"] + 4 * ["r0"] + 3 * ["r1"]
    assert rows[0]["error"]
    assert [row["span"] for row in rows[1:5]] == [[0, 4], [4, 8], [8, 12], [10, 14]]
    (out / "part-0000001.parquet").unlink()
    cluster.inspect(model, [str(new)], str(out), workers=2)
    same(cluster.read(str(out)).to_pylist(), rows)
    write_record(new, "r1", beats(17, seed=10), leads=("MLII", "V1"))
    with pytest.raises(ConfigError, match="other samples or another model"):  # a recording that has become longer
        cluster.inspect(model, [str(new)], str(out), workers=2)


def test_recordings_have_no_urls_and_csv_is_one_of_them(of_signals: tuple[Model, Path], tmp_path: Path) -> None:
    model, new = of_signals
    with pytest.raises(ConfigError, match=r"s3://b/r\.hea: signals are read from files, not from URLs"):
        cluster.inspect(model, ["s3://b/r.hea"], str(tmp_path / "out"))
    kind = type(registry.of(model.meta))
    np.savetxt(tmp_path / "beats.csv", beats(5), delimiter=",", header="MLII,V1", comments="")
    assert places.files([str(tmp_path / "beats.csv")], kind) == [str(tmp_path / "beats.csv")]
    (tmp_path / "list.csv").write_text(f'name,"path"\na,{new}/r0.hea\n', encoding="utf-8")
    assert places.files([str(tmp_path / "list.csv")], kind) == [f"{new}/r0.hea"]
    (tmp_path / "list.csv").write_text("path\ns3://b/r.hea\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="not from URLs"):
        places.files([str(tmp_path / "list.csv")], kind)


@pytest.mark.usefixtures("ray")
def test_point_clouds_by_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("plyfile", reason="plyfile is not installed: pip install 'blemish[3d]'")
    from blemish.data.cloud.formats import write_cloud

    for i in range(12):
        write_cloud(tmp_path / "good" / f"{i:02}.ply", cloud_of(good_cloud(i)))
    for i in range(3):
        write_cloud(tmp_path / "new" / f"{i}.ply", cloud_of(good_cloud(50 + i)))
        write_cloud(tmp_path / "new" / f"bad{i}.ply", bad_cloud(60 + i))
    model = Detector("fpfh", false_alarm_rate=0.25, held_out=0.35, cache=False).fit(tmp_path / "good").model
    modelfile.save(model, tmp_path / "model")
    out = tmp_path / "out"
    words = ["inspect", str(tmp_path / "model"), str(tmp_path / "new"), "--engine", "ray", "--out", str(out)]
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0
    assert json.loads(capfd.readouterr().out)["rows"] == 6
    rows = cluster.read(str(out)).to_pylist()
    same(rows, local(model, str(tmp_path / "new")))
    found = [region for row in rows for region in row["regions"]]
    assert found
    assert all(len(region["box"]) == 6 and region["points"] > 0 for region in found)
    with pytest.raises(ConfigError, match="another model"):  # of the same description, but for its bank
        cluster.inspect(_other(model), [str(tmp_path / "new")], str(out))


def _other(model: Model) -> Model:
    from dataclasses import replace

    return replace(model, tensors=model.tensors[:-1] + b"x")
