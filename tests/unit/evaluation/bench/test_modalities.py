"""Cells of recordings and of point clouds: learned, measured, and summed up as those of images are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'blemish[bench]'")

from blemish.evaluation.bench import cell as cells
from blemish.evaluation.bench import ledger, results, store, suite
from blemish.files import write_whole
from tests.fakes import defective_cloud, good_cloud
from tests.unit.test_detector_clouds import bad_cloud, cloud_of

pytestmark = [pytest.mark.numeric, pytest.mark.slow]

SIGNALS = """
methods = []
[fit]
window = 4.0
resample = 50.0
band = "0.5-20"
calibration = "split"
held_out = 0.3
false_alarm_rate = 0.2
[[data]]
name = "beats"
source = "beats"
[[method]]
name = "mmae_ecg"
options = { segment = 10, local = 4, width = 16, depth = 1, heads = 2, steps = 60, batch = 16, rate = 5e-3 }
[[method]]
name = "mmae_ecg"
label = "untrained"
options = { segment = 10, local = 4, width = 16, depth = 1, heads = 2, steps = 1, batch = 16 }
"""

CLOUDS = """
methods = ["fpfh"]
[[data]]
name = "sheets"
source = "sheets"
"""


def signals(root: Path) -> suite.Suite:
    pytest.importorskip("wfdb", reason="wfdb is not installed: pip install 'blemish[ecg]'")
    from tests.unit.data.signal.test_preprocess import annotated

    annotated(root / "beats", ["101", "106", "108", "109", "100", "103"], 60)
    return read(root, SIGNALS)


def clouds(root: Path) -> suite.Suite:
    pytest.importorskip("plyfile", reason="plyfile is not installed: pip install 'blemish[3d]'")
    from blemish.data.cloud.formats import write_cloud

    for i in range(8):
        write_cloud(root / "sheets" / "train" / "good" / f"{i:02}.ply", cloud_of(good_cloud(i)))
    for i in range(3):
        write_cloud(root / "sheets" / "test" / "good" / f"{i:02}.ply", cloud_of(good_cloud(100 + i)))
        write_cloud(root / "sheets" / "test" / "knob" / f"{i:02}.ply", bad_cloud(200 + i))
        labels = root / "sheets" / "ground_truth" / "knob" / f"{i:02}_labels.npy"
        labels.parent.mkdir(parents=True, exist_ok=True)
        np.save(labels, defective_cloud(200 + i)[1].astype(np.uint8))
    return read(root, CLOUDS)


def read(root: Path, text: str) -> suite.Suite:
    (root / "suite.toml").write_text(text, encoding="utf-8")
    return suite.read(root / "suite.toml")


def finished(chosen: suite.Suite, out: Path) -> list[Path]:
    """The folders of all cells, each run in this process."""
    folders = []
    for cell in chosen.cells():
        mark = cells.digest(cell, cell.records())
        folder = store.folder_of(out, cell, mark)
        folder.mkdir(parents=True)
        store.write(folder, cells.work(cell, mark, folder))
        folders.append(folder)
    return folders


@pytest.mark.parametrize(("make", "count"), [(signals, 2), (clouds, 1)])
def test_cells_run_and_make_a_page(make: Any, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLEMISH_CACHE", str(tmp_path / "cache"))
    folders = finished(make(tmp_path), tmp_path / "out")
    assert len(folders) == count
    for folder in folders:
        record = store.record(folder)
        assert record["checked"]["cached"] is False
        assert record["checked"]["images"] > 4
        assert record["features"] == {"images": 0, "computed": 0, "seconds": 0.0}
        assert record["inspect"]["cpu_ms"] > 0
        assert record["size"]["values"] > 0
        assert (record["weights"], record["size"]["backbone_gmacs"]) == ("none", 0.0)
        assert record["network_input"]
    record = store.record(folders[0])
    assert record["overall"]["image"]["auroc"]["value"] > 0.6
    assert record["overall"]["pixel"]["aupro_0.3"]["value"] > 0
    if make is signals:
        assert record["overall"]["false_alarms"]["promised"] == 0.2
        assert record["size"]["gmacs"] > 0
    tables = results.collect(folders)
    results.write(tables, tmp_path / "tables")
    page = ledger.text(results.read(tmp_path / "tables"), {}, "blemish bench suite.toml", 0, "Other modalities")
    assert "I-AUROC" in page
    assert "| untrained |" in page or make is clouds


def test_a_window_s_digest_is_of_its_values(tmp_path: Path) -> None:
    """The header of a recording is one file, its values lie in another."""
    chosen = signals(tmp_path)
    cell = next(iter(chosen.cells()))
    records = cell.records()
    before = cells.digest(cell, records)
    assert before == cells.digest(cell, cell.records())
    values = tmp_path / "beats" / "101.dat"
    data = bytearray(values.read_bytes())
    data[1000] ^= 4
    write_whole(values, bytes(data))
    assert cells.digest(cell, cell.records()) != before


def test_options_of_windows_make_other_cells(tmp_path: Path) -> None:
    chosen = signals(tmp_path)
    first, second = (
        [(cell.title, len(cell.records())) for cell in read(tmp_path, text).cells()]
        for text in (SIGNALS, SIGNALS.replace("window = 4.0", "window = 8.0"))
    )
    assert [title for title, _ in first] == [cell.title for cell in chosen.cells()]
    assert all(a > b for (_, a), (_, b) in zip(first, second, strict=True))
    assert json.dumps(first) != json.dumps(second)
