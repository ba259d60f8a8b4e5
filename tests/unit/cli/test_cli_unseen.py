"""Whatever a user names or a folder holds gets a line, or is counted: `inspect` never passes over a picture."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from blemish.cli import main
from blemish.inspection import modelfile
from tests.fakes import good_image, write_images
from tests.tiny import fit_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unseen")
    modelfile.save(fit_tiny(folder), folder / "model")
    return folder / "model"


class Done(NamedTuple):
    code: int
    lines: list[dict[str, Any]]
    err: list[str]


@pytest.fixture
def inspect(model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def command(*arguments: object) -> Done:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["inspect", str(model), *map(str, arguments)])
        out, err = capfd.readouterr()
        return Done(int(end.value.code or 0), [json.loads(line) for line in out.splitlines()], err.splitlines())

    return command


def test_every_picture_of_a_folder_is_judged(inspect: Any, tmp_path: Path) -> None:
    write_images(tmp_path / "in" / "a", 1)
    write_images(tmp_path / "away", 2, first=10)
    (tmp_path / "in" / "link").symlink_to(tmp_path / "away")
    for suffix, form in (("gif", "GIF"), ("ppm", "PPM"), ("jp2", "JPEG2000"), ("", "PNG")):
        Image.fromarray(good_image(3)).save(tmp_path / "in" / f"x{suffix}.{suffix}".rstrip("."), form)
    done = inspect(tmp_path / "in")
    assert [line["image_path"].removeprefix(f"{tmp_path}/in/") for line in done.lines] == [
        "a/000.png", "link/010.png", "link/011.png", "x", "xgif.gif", "xjp2.jp2", "xppm.ppm",
    ]  # fmt: skip
    assert all(line["error"] is None and line["pred_label"] for line in done.lines)
    assert (done.code, done.err) == (0, [])


def test_what_is_not_judged_has_a_line_and_is_summed_up(inspect: Any, tmp_path: Path) -> None:
    write_images(tmp_path, 2)
    for name in ("a.heic", "b.heic", "c.dcm"):
        (tmp_path / name).write_bytes(b"?")
    pages = [Image.fromarray(good_image(i)) for i in range(3)]
    pages[0].save(tmp_path / "burst.tif", save_all=True, append_images=pages[1:])
    for name in ("1.txt", "2.txt", "3.json"):
        (tmp_path / name).write_text("x")
    done = inspect(tmp_path, tmp_path / "gone.png", "--fail-on-anomaly")
    wrong = {Path(line["image_path"]).name: line["error"] for line in done.lines if line["error"]}
    assert sorted(wrong) == ["a.heic", "b.heic", "burst.tif", "c.dcm", "gone.png"]
    assert "holds 3 pages, and an image is one picture" in wrong["burst.tif"]
    assert len(done.lines) == 7
    assert done.code == 1
    assert done.err == [
        "warning: 5 of 7 inputs could not be inspected: 2 x HEIC is not read, "
        "1 x holds 3 pages, and an image is one picture, 1 x DICOM is not read, 1 x no such file",
        "note: 3 other files were not inspected: 2 .txt, 1 .json",
    ]


def test_other_files_alone_change_no_exit_code(inspect: Any, tmp_path: Path) -> None:
    write_images(tmp_path, 1)
    (tmp_path / "._000.png").write_bytes(b"?")
    done = inspect(tmp_path)
    assert (done.code, done.err) == (0, ["note: 1 other file was not inspected: 1 hidden"])


def test_pictures_in_stems_keep_their_folders(inspect: Any, tmp_path: Path) -> None:
    write_images(tmp_path / "in" / "b", 1)
    (tmp_path / "in" / "b" / "000.heic").write_bytes(b"?")
    done = inspect(tmp_path / "in", "--raw-maps", tmp_path / "maps")
    assert done.code == 1
    assert len(list((tmp_path / "maps").rglob("*.npy"))) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="limits are Linux's")
@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("std::bad_alloc"), OSError(12, "Cannot allocate memory")]
)
def test_no_traceback_where_memory_runs_out(inspect: Any, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(modelfile, "load", full)
    done = inspect("x.png")
    assert done.code == 1
    assert done.err[0].startswith("error: out of memory")
    assert done.err[1].startswith("hint: ")
