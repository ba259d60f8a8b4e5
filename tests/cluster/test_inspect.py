"""Inspection on a local cluster of two workers: every image once, the bits of the local engine, whatever dies."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ray", reason="ray is not installed: pip install 'blemish[ray]'")

from blemish import Detector
from blemish.cli import main
from blemish.data import storage as places
from blemish.errors import ConfigError, DataError
from blemish.evaluation.metrics import PixelCounts
from blemish.inspection import modelfile
from blemish.inspection import on_ray as cluster
from blemish.inspection.modelfile import Model
from tests.fakes import defective_image, write_images
from tests.tiny import fit_tiny

# Ray's own: sockets that it leaves to the interpreter, and settings of its own that it calls deprecated
NAMES = 320
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("ResourceWarning", "DeprecationWarning")]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and 60 images, some with a defect and one that is none."""
    folder = tmp_path_factory.mktemp("inspect")
    modelfile.save(fit_tiny(folder), folder / "model")
    write_images(folder / "new" / "a", 40, first=300)
    for i in range(20):
        Image.fromarray(defective_image(900 + i)[0]).save(folder / "new" / f"{i:03d}.png")
    (folder / "new" / "b.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def model(here: Path) -> Model:
    return modelfile.load(here / "model")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "PART", 16)


def local(here: Path) -> list[dict[str, Any]]:
    """The rows of the local engine, in the order of the listing."""
    line = Detector.load(here / "model").inspector()
    paths = places.files([str(here / "new")])
    results = line.inspect_many(paths, errors="yield")
    return [
        {"image_path": p, "regions": [], "error": str(r)} if isinstance(r, DataError) else r.to_json()
        for p, r in zip(paths, results, strict=True)
    ]


def same(rows: list[dict[str, Any]], expected: list[dict[str, Any]], base: str = "") -> None:
    keys = ("image_path", "pred_score", "p_value", "threshold", "pred_label", "regions", "error")
    assert len(rows) == len(expected)
    for row, wanted in zip(rows, expected, strict=True):
        assert {k: row[k] for k in keys} == {k: wanted.get(k) for k in keys}


@pytest.mark.usefixtures("ray", "small_parts")
def test_the_rows_are_those_of_the_local_engine(here: Path, model: Model, tmp_path: Path) -> None:
    summary = cluster.inspect(model, [str(here / "new")], str(tmp_path / "out"), workers=2)
    assert {k: summary[k] for k in ("images", "rows", "errors", "parts")} == {
        "images": 61, "rows": 61, "errors": 1, "parts": 4
    }  # fmt: skip
    assert summary["anomalous"] >= 20
    same(cluster.read(str(tmp_path / "out")).to_pylist(), local(here))
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("part-*")}
    (tmp_path / "out" / "part-0000002.parquet").unlink()
    assert cluster.inspect(model, [str(here / "new")], str(tmp_path / "out"), workers=2) == summary
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("part-*")}
    assert {n for n in after if after[n] != before[n]} == {"part-0000002.parquet"}  # the others were not run again
    same(cluster.read(str(tmp_path / "out")).to_pylist(), local(here))


def test_a_result_of_something_else_is_not_mixed_with(here: Path, model: Model, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.parquet").write_bytes(b"")
    with pytest.raises(DataError, match="'x.parquet', which no earlier run wrote"):
        cluster.inspect(model, [str(here / "new")], str(tmp_path / "out"))
    (tmp_path / "out" / "x.parquet").unlink()
    (tmp_path / "out" / cluster.PLAN).write_text('{"images": 1}', encoding="utf-8")
    with pytest.raises(ConfigError, match="other samples or another model"):
        cluster.inspect(model, [str(here / "new")], str(tmp_path / "out"))


@pytest.fixture(scope="module")
def many(here: Path) -> Path:
    """A manifest of `NAMES` names of 40 images."""
    folder = here / "many"
    folder.mkdir()
    for i in range(NAMES):
        os.link(here / "new" / "a" / f"{300 + i % 40}.png", folder / f"{i:04d}.png")
    (here / "many.csv").write_text("path\n" + "\n".join(f"many/{i:04d}.png" for i in range(NAMES)), encoding="utf-8")
    return here / "many.csv"


def test_a_driver_that_dies_goes_on(ray: Any, many: Path, here: Path, tmp_path: Path) -> None:
    """On a cluster that outlives it; the one of `test_object_storage_in_and_out` ends with its driver.

    Killed once by the test; Ray's own core may abort a driver too, and the next one goes on in the same way.
    """
    out = tmp_path / "out"
    code = "import blemish.inspection.on_ray as c; c.PART = 16; from blemish.cli import main; main()"
    command = [sys.executable, "-c", code, "inspect", str(here / "model"), str(many), "--engine", "ray"]
    command += ["--address", ray.get_runtime_context().gcs_address, "--out", str(out), "--workers", "2"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 300
    while len(list(out.glob("part-*"))) < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    kept = {p.name: p.stat().st_mtime_ns for p in out.glob("part-*")}
    assert len(kept) < NAMES / 16
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode >= 0:
            break
        print(done.stderr)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == NAMES
    assert kept.items() <= {p.name: p.stat().st_mtime_ns for p in out.glob("part-*")}.items()
    assert len({r["image_path"] for r in cluster.read(str(out)).to_pylist()}) == NAMES


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket on an S3-compatible server of this machine."""
    server = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    places._filesystem("s3://line")[0].mkdir("line")
    yield "s3://line"
    server.stop()


@pytest.mark.usefixtures("small_parts")
def test_object_storage_in_and_out(s3: str, here: Path, tmp_path: Path) -> None:
    for path in sorted((here / "new").rglob("*.png")):
        places.write(f"{s3}/new/{path.relative_to(here / 'new').as_posix()}", path.read_bytes())
    listed = places.files([f"{s3}/new"])
    assert len(listed) == 61
    names = "\n".join(image.removeprefix(f"{s3}/") for image in listed)
    places.write(f"{s3}/list.csv", f"path\n{names}\n".encode())
    assert places.files([f"{s3}/list.csv"]) == listed
    # a process of its own: workers of a cluster inherit the environment that it is started in
    code = (
        "import json, sys, blemish.inspection.on_ray as c\nfrom blemish.inspection import modelfile\nc.PART = 16\n"
        "print(json.dumps(c.inspect(modelfile.load(sys.argv[1]), [sys.argv[2]], sys.argv[3], workers=2)))"
    )
    words = [sys.executable, "-c", code, str(here / "model"), f"{s3}/list.csv", f"{s3}/out/run"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert {k: json.loads(done.stdout)[k] for k in ("rows", "errors")} == {"rows": 61, "errors": 1}
    rows = cluster.read(f"{s3}/out/run").to_pylist()
    scores = {Path(r["image_path"]).relative_to(here / "new").as_posix(): r.get("pred_score") for r in local(here)}
    assert {r["image_path"].removeprefix(f"{s3}/new/"): r["pred_score"] for r in rows} == scores
    with pytest.raises(DataError, match="no such file"):
        places.read(f"{s3}/none.png")
    assert places.names_in(f"{s3}/nowhere") == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "ray"], "writes Parquet files"),
        (["--engine", "ray", "--out", "x", "--maps", "y"], "--maps means nothing with --engine ray"),
        (["--out", "x"], "--out means nothing without --engine ray"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    words: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["inspect", str(here / "model"), str(here / "new"), *words])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_manifests(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"path": ["a.png", "s3://b/c.png"]}), tmp_path / "m.parquet")
    assert places.files([str(tmp_path / "m.parquet")]) == [str(tmp_path / "a.png"), "s3://b/c.png"]
    (tmp_path / "m.csv").write_text("file\na.png\n", encoding="utf-8")
    with pytest.raises(DataError, match="no column 'path'"):
        places.files([str(tmp_path / "m.csv")])
    with pytest.raises(DataError, match="named twice"):
        places.files(["a.png", "a.png"])
    shutil.copy(tmp_path / "m.csv", tmp_path / "bad.parquet")
    with pytest.raises(DataError, match="no Parquet file"):
        places.files([str(tmp_path / "bad.parquet")])
    with pytest.raises(ConfigError, match="nosuch"):
        places.files(["nosuch://x/y.png"])


def counted(seeds: range) -> PixelCounts:
    counts = PixelCounts(1.0)
    for seed in seeds:
        values = np.random.default_rng(seed).gamma(2.0, 1.0, (20, 24)).astype(np.float32)
        mask = np.zeros((20, 24), np.uint8)
        mask[2 : 4 + seed % 5, 3:9] = seed % 2
        counts.update(values + mask, mask)
    return counts


def test_metrics_of_workers_merge_exactly(ray: Any) -> None:
    task = ray.remote(lambda first, last: counted(range(first, last)).to_arrays())
    parts = [PixelCounts.from_arrays(a) for a in ray.get([task.remote(0, 7), task.remote(7, 9), task.remote(9, 20)])]
    for part in parts[1:]:
        parts[0].merge(part)
    whole = counted(range(20))
    for one, other in zip(parts[0].to_arrays().values(), whole.to_arrays().values(), strict=True):
        assert np.array_equal(one, other)
    assert parts[0].aupro(0.3) == whole.aupro(0.3)
