"""What may go wrong on a cluster besides a death: other models, other folders, other machines, storage that fails."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="ray is not installed: pip install 'blemish[ray]'")

from blemish import Detector
from blemish.cli import main
from blemish.data import storage as places
from blemish.errors import ConfigError, DataError, EngineError
from blemish.inspection import modelfile
from blemish.inspection import on_ray as cluster
from blemish.inspection.modelfile import Model
from tests.cluster.processes import workers
from tests.fakes import write_images
from tests.tiny import fit_tiny

pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("ResourceWarning", "DeprecationWarning")]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, 40 images and 600 names of them."""
    folder = tmp_path_factory.mktemp("corners")
    modelfile.save(fit_tiny(folder), folder / "model")
    write_images(folder / "new", 40, first=300)
    (folder / "new" / "none.png").write_bytes(b"no image")
    for i in range(600):
        (folder / "many").mkdir(exist_ok=True)
        os.link(folder / "new" / f"{300 + i % 40}.png", folder / "many" / f"{i:04d}.png")
    return folder


@pytest.fixture(scope="module")
def model(here: Path) -> Model:
    return modelfile.load(here / "model")


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "PART", 16)


@pytest.fixture(scope="module")
def finished(ray: Any, here: Path, model: Model) -> Path:
    """A finished run on relative paths, one of which is not there, with more workers than the cluster has cores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)  # the workers' own folder is another one: the cluster was started before
        patch.setattr(cluster, "PART", 16)
        assert cluster.inspect(model, ["new", "gone.png"], str(here / "out"), workers=5)["rows"] == 42
    return here / "out"


def test_relative_paths_start_where_the_driver_is(finished: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    rows = cluster.read(str(finished)).to_pylist()
    paths = [r["image_path"] for r in rows]
    assert paths == places.files(["new", "gone.png"])
    local = Detector.load("model").inspector().inspect_many(paths, errors="yield")
    for row, result in zip(rows, local, strict=True):
        if isinstance(result, DataError):
            assert row["error"] == str(result)
        else:
            assert {**result.to_json(), "seconds": row["seconds"]} == row


def test_another_threshold_is_another_model(
    finished: Path, here: Path, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "part-0000001.parquet").unlink()
    again = model.with_calibrators({k: c.again(0.4) for k, c in model.calibrators.items()})
    with pytest.raises(ConfigError, match="another model"):
        cluster.inspect(again, ["new", "gone.png"], str(out))
    assert not (out / "part-0000001.parquet").exists()


def test_a_part_that_is_cut_short_is_named(
    finished: Path, here: Path, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    part = out / "part-0000001.parquet"
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(DataError, match="part-0000001.parquet: is damaged"):
        cluster.inspect(model, ["new", "gone.png"], str(out), workers=2)


@pytest.mark.usefixtures("ray")
def test_a_worker_without_the_number_format_refuses(
    here: Path, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    real = cluster._Inspecting

    class Old(real):  # type: ignore[misc, valid-type]
        def __init__(self, shared: Any, precision: str, base: str) -> None:
            from blemish.inspection import engines

            engines.best_precision = lambda: "f32"
            super().__init__(shared, "bf16", base)

    monkeypatch.setattr(cluster, "_Inspecting", Old)
    with pytest.raises(EngineError, match="does not compute in bf16") as found:
        cluster.inspect(model, [str(here / "new")], str(tmp_path / "out"))
    assert found.value.hint == "use machines of one kind"
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.usefixtures("ray")
def test_workers_that_die_again_and_again(here: Path, model: Model, tmp_path: Path) -> None:
    """At any moment: while they start, while they work, both at once."""
    generator, ended, killed = random.Random(0), threading.Event(), []

    def murder() -> None:
        while not ended.is_set() and len(killed) < 5:
            time.sleep(generator.uniform(0.3, 1.2))
            for pid in workers()[: generator.randint(1, 2)]:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    thread = threading.Thread(target=murder)
    thread.start()
    try:
        summary = cluster.inspect(model, [str(here / "many")], str(tmp_path / "out"), workers=2)
    finally:
        ended.set()
        thread.join()
    print(f"\n{len(killed)} kills")
    assert killed
    assert (summary["rows"], summary["errors"]) == (600, 0)
    rows = cluster.read(str(tmp_path / "out")).to_pylist()
    assert [r["image_path"] for r in rows] == places.files([str(here / "many")])
    expected = [r.score for r in Detector.load(here / "model").inspect_many(places.files([str(here / "many")])[:40])]
    assert [r["pred_score"] for r in rows] == expected * 15


@pytest.mark.usefixtures("ray")
def test_stdout_is_one_json_line_though_a_worker_dies(
    here: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def track(items: Any, *_: Any) -> Iterator[Any]:
        for i, item in enumerate(items):
            if i == 3:
                os.kill(workers()[0], signal.SIGKILL)
            yield item

    monkeypatch.setattr("blemish.cli.inspect.track", track)
    with pytest.raises(SystemExit) as end:
        main(["inspect", str(here / "model"), str(here / "many"), "--engine", "ray", "--out", str(tmp_path / "out")])
    assert end.value.code == 0
    said = json.loads(capfd.readouterr().out)
    assert (said["rows"], said["errors"]) == (600, 0)
    rows = cluster.read(str(tmp_path / "out")).to_pylist()
    assert [r["image_path"] for r in rows] == places.files([str(here / "many")])
    first = {i % 40: row["pred_score"] for i, row in reversed(list(enumerate(rows)))}
    assert all(row["pred_score"] == first[i % 40] for i, row in enumerate(rows))


def test_a_file_url_is_written_by_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(places, "write_whole", lambda path, data: written.append(str(path)))
    places.write(f"file://{tmp_path}/a", b"x")
    assert written == [f"{tmp_path}/a"]


def test_storage_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    for name, value in {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    for act in (lambda: places.files(["s3://b/new"]), lambda: places.read("s3://b/x.png"),
                lambda: places.names_in("s3://b/out"), lambda: places.write("s3://b/out/x", b"x")):  # fmt: skip
        with pytest.raises(DataError, match="s3://b/"):
            act()


@pytest.mark.parametrize("content", [b"path\n", b"name,path\na\n", b"path\n\xff\xfe\n", b'path\n"a'])
def test_manifests_that_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"m\.csv"):
        places.files([str(tmp_path / "m.csv")])


def test_the_memory_of_a_process_is_no_place() -> None:
    with pytest.raises(ConfigError, match="workers do not see"):
        places.files(["memory://x/y.png"])
