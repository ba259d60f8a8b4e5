"""Which files of a folder are images, which could be and are not read, and which are others."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blemish.data import layouts
from blemish.data.listing import images_in, list_images, reasons
from blemish.data.signal.recordings import recordings_in
from blemish.errors import DataError
from blemish.files import walk
from tests.fakes import good_image


def picture(path: Path, form: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(good_image(len(path.name))).save(path, form)
    return path


def names(root: Path, paths: list[Path]) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


def test_all_that_is_a_picture_is_found(tmp_path: Path) -> None:
    forms = {"a.gif": "GIF", "a.PPM": "PPM", "a.jp2": "JPEG2000", "a.tif": "TIFF", "a.webp": "WEBP", "b/c.bmp": "BMP"}
    by_content = {"no_suffix": "PNG", "shot.000001": "JPEG", "odd.img": "TIFF", "net.dat": "PPM", "b.txt": "GIF"}
    for name, form in (forms | by_content).items():
        picture(tmp_path / name, form)
    found = list_images(tmp_path)
    assert sorted(names(tmp_path, found.files)) == sorted(forms | by_content)
    assert not found.unread
    assert found.not_inspected() is None
    assert images_in(tmp_path, deep=True) == found.files
    assert sorted(names(tmp_path, images_in(tmp_path))) == sorted({*forms, *by_content} - {"b/c.bmp"})


def test_other_files_are_counted_and_pictures_that_are_not_read_are_errors(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    for name in ("1.txt", "2.txt", "3.json", "README", "Thumbs.db", "BMW.txt", "P5.csv"):
        (tmp_path / name).write_text("BM and P5 alone make no picture")
    for name in (".hidden.png", "._a.png", ".ipynb_checkpoints/a.png", ".Trash-1000/files/a.png", "__MACOSX/a.png"):
        picture(tmp_path / name)
    for name in ("a.heic", "b.heic", "c.dcm", "d.nef", "e.svg"):
        (tmp_path / name).write_bytes(b"?")
    (tmp_path / "scan").write_bytes(bytes(128) + b"DICM")
    found = list_images(tmp_path)
    assert names(tmp_path, found.files) == ["a.png"]
    assert found.other == Counter({"hidden": 5, ".txt": 3, ".json": 1, "without suffix": 1, ".db": 1, ".csv": 1})
    assert str(found.not_inspected()).startswith("12 other files were not inspected: 5 hidden, 3 .txt, ")
    assert [str(error.path) for error in found.unread] == [
        str(tmp_path / name) for name in ("a.heic", "b.heic", "c.dcm", "d.nef", "e.svg", "scan")
    ]
    assert all(error.hint for error in found.unread)
    expected = "2 x HEIC is not read, 2 x DICOM is not read, 1 x camera RAW is not read, 1 x SVG is not read"
    assert reasons(found.unread) == expected


def test_links_are_followed_once_and_circles_end(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "away"
    for path in (root / "a" / "1.png", root / "b" / "2.png", outside / "3.png", outside / "deep" / "4.png"):
        picture(path)
    (root / "link").symlink_to(outside)
    (root / "again").symlink_to(outside / "deep")
    (root / "up").symlink_to(tmp_path)
    (root / "a" / "circle").symlink_to(root)
    (root / "a" / "same.png").symlink_to("1.png")
    (root / "a" / "else.png").symlink_to(outside / "3.png")
    (outside / "back").symlink_to(root)
    found = names(root, walk(root).files)
    assert sorted(os.path.realpath(root / name) for name in found) == sorted(
        str(p) for p in (root / "a" / "1.png", root / "b" / "2.png", outside / "3.png", outside / "deep" / "4.png")
    )
    assert {"a/1.png", "b/2.png"} <= set(found)  # what has a name of its own keeps it
    assert names(root, images_in(root, deep=True)) == found
    other = tmp_path / "to_root"
    other.symlink_to(root)
    assert len(walk(other).files) == 4


def test_what_a_dead_link_and_a_folder_with_a_pictures_name_are_is_said_by_who_reads_them(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "folder.png").mkdir()
    found = list_images(tmp_path)
    assert names(tmp_path, found.files) == ["folder.png", "gone.png"]
    assert found.other == Counter({"without suffix": 1})


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert list_images(tmp_path).other == Counter({"without suffix": 1})


def test_a_folder_that_cannot_be_looked_into_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "shut" / "b.png")
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    [error] = list_images(tmp_path).unread
    assert error.path == tmp_path / "shut"
    assert "Permission denied" in str(error)


def test_recordings_behind_a_link_are_found(tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    np.save(tmp_path / "away" / "a.npy", np.zeros((2, 50)))
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "away")
    assert names(tmp_path / "root", recordings_in(tmp_path / "root", deep=True)) == ["link/a.npy"]


def test_learning_tells_of_pictures_that_it_leaves_out(tmp_path: Path) -> None:
    for name in ("good/a.png", "good/b.gif"):
        picture(tmp_path / name, "GIF" if name.endswith("gif") else "PNG")
    (tmp_path / "good" / "notes.txt").write_text("x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [record.id for record in layouts.index(tmp_path / "good")] == ["a.png", "b.gif"]
    (tmp_path / "good" / "c.heic").write_bytes(b"?")
    with pytest.warns(UserWarning, match="left out, which may be images: 1 x HEIC is not read"):
        assert len(layouts.index(tmp_path / "good")) == 2


def test_a_folder_of_nothing_that_is_read_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"?")
    with pytest.raises(DataError, match="no images found that are read: 1 x HEIC is not read") as caught:
        layouts.index(tmp_path)
    assert "PNG" in str(caught.value.hint)
