"""Where outputs may go: apart from what is read, writable, and over nothing that is not Blemish's own."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from blemish import outputs
from blemish.data.cloud.formats import clouds_in
from blemish.data.listing import images_in
from blemish.data.signal.recordings import recordings_in
from blemish.errors import DataError, ModelFileError
from blemish.files import file_name
from blemish.inspection import modelfile
from blemish.outputs import MAPS, MapFolder, RunFolder, check_apart, check_file, check_files, check_folder, stems


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `data` with two files, and the folder above as the current one."""
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "data" / "a.png").write_bytes(b"mine")
    (tmp_path / "data" / "sub" / "b.png").write_bytes(b"mine")
    (tmp_path / "link").symlink_to("data")
    monkeypatch.chdir(tmp_path)
    return Path("data")


@pytest.mark.parametrize(("out", "message"), [
    ("data", "is itself an input"), ("data/", "is itself an input"), ("./data/../data", "is itself an input"),
    ("link", "is itself an input"), ("data/maps", "lies in"), ("data/sub/deep/maps", "lies in"),
    ("link/maps", "lies in"),
    (".", "holds"), ("..", "holds"), ("data/sub/../..", "holds"),
])  # fmt: skip
@pytest.mark.parametrize("source", ["data", "link", "absolute"])
def test_outputs_and_a_folder_that_is_read_are_apart(data: Path, out: str, message: str, source: str) -> None:
    read = data.absolute() if source == "absolute" else Path(source)
    with pytest.raises(DataError, match=message) as caught:
        check_apart(out, "--maps", [read])
    assert "--maps" in str(caught.value.hint)


@pytest.mark.parametrize("out", ["data", ".", "link", "data/a.png"])
def test_outputs_are_apart_from_named_files(data: Path, out: str) -> None:
    with pytest.raises(DataError, match=r"holds|is itself an input"):
        check_apart(out, "--maps", [data / "a.png", data / "nowhere.png"])


def test_what_is_apart_may_lie_beside(data: Path) -> None:
    for out in ("maps", "data2", "new/deep/maps"):
        check_apart(out, "--maps", [data, "elpv", "s3://bucket/images"])
    check_apart("data/maps", "--maps", [data / "a.png"])  # the folder of a named file is not read


def test_nothing_is_put_into_a_model(data: Path) -> None:
    Path("m").mkdir()
    Path("m/model.json").write_text('{"digest": ""}')
    for out in ("m/x.json", "m/heads/maps"):
        with pytest.raises(DataError, match="model folder"):
            check_apart(out, "--json", [data])
    with pytest.raises(DataError, match="is a model folder"):
        check_folder("m", "--maps")


@pytest.mark.parametrize(("content", "is_ours"), [
    (b'{\n "schema": 1,\n "overall": {}}', outputs.figures),
    (b"<!DOCTYPE html><html><footer>Written by Blemish 1.0</footer>", outputs.page),
    (b"# Ledger\n\nMade by `blemish bench x.toml --out y`: 3 cells", outputs.ledger),
])  # fmt: skip
def test_only_a_file_of_blemishs_own_is_replaced(tmp_path: Path, content: bytes, is_ours: object) -> None:
    path = tmp_path / "out"
    for ours in (content, b""):
        path.write_bytes(ours)
        check_file(path, "--json", is_ours=is_ours)  # type: ignore[arg-type]
    for theirs in (b"mine", b"{}", b'{"schema": 1}', b"<!doctype html><p>my page", b"\x89PNG\r\n\x1a\n"):
        path.write_bytes(theirs)
        with pytest.raises(DataError, match="was not written by Blemish"):
            check_file(path, "--json", is_ours=is_ours)  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_files_that_cannot_be_written(data: Path, tmp_path: Path) -> None:
    os.mkfifo("pipe")
    Path("gone").symlink_to("nowhere")
    messages = {
        "none/x.json": "its folder is not there", "data": "is a folder", "pipe": "no regular file",
        "gone": "no regular file", "/dev/null": "no regular file", f"{'x' * 300}.json": "cannot be written",
    }  # fmt: skip
    for path, why in messages.items():
        with pytest.raises(DataError, match=why) as caught:
            check_file(path, "--json", is_ours=outputs.figures)
        assert str(caught.value).startswith(path)
        assert caught.value.hint
    with pytest.raises(DataError, match=r"is named by --json and by --report"):
        check_files({"--json": (Path("x"), outputs.figures), "--report": (tmp_path / "x", outputs.page)})
    with pytest.raises(DataError, match="lies in data"):
        check_files({"--json": (data / "x.json", outputs.figures)}, read=[data])


@pytest.mark.parametrize("out", ["file", "file/below/x", "gone"])
def test_folders_that_cannot_be_made(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "gone").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"no folder|cannot be written"):
        check_folder(tmp_path / out, "--maps")
    if out == "gone":
        modelfile.check_place(tmp_path / out)  # the model is written where the link leads
        return
    with pytest.raises((DataError, ModelFileError), match=r"no model folder|cannot be written"):
        modelfile.check_place(tmp_path / out)


def test_a_folder_without_permission(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0o500)
    if os.access(tmp_path / "shut", os.W_OK):
        pytest.skip("this user may write everywhere")
    for check in (lambda p: check_folder(p, "--maps"), modelfile.check_place):
        with pytest.raises(DataError, match="cannot be written"):
            check(tmp_path / "shut" / "below")


def test_looking_leaves_nothing_behind(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b", "--maps")
    modelfile.check_place(tmp_path / "a" / "m")
    check_file(tmp_path / "x.json", "--json", is_ours=outputs.figures)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("files", "message"), [
    ({}, None), ({".DS_Store": ""}, None),
    ({"model.json": '{"digest": 1}', "run.json": "{}", ".DS_Store": ""}, None),
    ({"model.json": '{"digest": 1}', "notes.txt": "mine"}, "'notes.txt', which is no part of the model"),
    ({"model.json": '{"layers": 3}'}, "is no model folder"),
    ({"weights.bin": "mine"}, "is no model folder"),
])  # fmt: skip
def test_what_a_model_may_replace(tmp_path: Path, files: dict[str, str], message: str | None) -> None:
    target = tmp_path / "m"
    target.mkdir()
    for name, content in files.items():
        (target / name).write_text(content)
    if message is None:
        modelfile.check_place(target)
        return
    with pytest.raises(ModelFileError, match=message):
        modelfile.check_place(target)
    assert sorted(p.name for p in target.iterdir()) == sorted(files)


def test_names_of_maps_keep_the_folders() -> None:
    def named(*paths: str, roots: tuple[str, ...]) -> list[str]:
        return stems([Path(p) for p in paths], [Path(r) for r in roots])

    assert named("x/b/1.png", "x/2.png", roots=("x",)) == ["b/1", "2"]
    assert named("a/0.png", "b/0.png", roots=("a", "b")) == ["a/0", "b/0"]
    assert named("l/x/0.png", "r/x/0.png", roots=("l/x", "r/x")) == ["l/x/0", "r/x/0"]
    assert named("a/0.png", "a/1.png", roots=("a", "a")) == ["0", "1"]
    assert named("../a/0.png", "b/../../a/1.png", roots=("../a", "../a")) == ["0", "1"]
    assert named("a/0.png", "a/0.png", roots=("a", "a")) == ["0", "0"]  # one file, one map
    assert named("a/0.png", "a/0.tif", "a/1.png", roots=("a",)) == ["0_png", "0_tif", "1"]
    assert named("a/0.tif", "a/1.png", "a/0.png", roots=("a",)) == ["0_tif", "1", "0_png"]
    assert named("a/0.png", "a/0.tif", "a/0_png.png", roots=("a",)) == ["0_2", "0_tif", "0_png"]


def test_names_of_maps_never_meet_on_any_file_system() -> None:
    files = [Path("d") / name for name in ("A.png", "a.png", "\u00e9.png", "e\u0301.png", "x.png", "x.png/y.png")]
    found = stems(files, [Path("d")])
    targets = [outputs._folded(f"{name}.png") for name in found]
    assert len(set(targets)) == len(files)
    above = {str(parent) for target in targets for parent in Path(target).parents}
    assert not above & set(targets)


def test_names_of_maps_where_no_folder_is_common(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "_common", lambda roots: None)  # noqa: ARG005
    [name] = stems([Path("/data/a/0.png")], [Path("/data/a")])
    assert name == "root/data/a/0"


def test_maps_replace_maps_and_nothing_else(tmp_path: Path) -> None:
    out, names = tmp_path / "maps", {"a/0.png", "a/1.png"}
    first = MapFolder(out, "--maps", names, read=[])
    first.begin()
    first.write("a/0.png", b"map")
    first.end()  # as a run that was stopped after one
    assert set(outputs.listed(out)) == {"a/0.png"}
    (out / "a" / "1.png").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"1\.png: is there and is no map") as caught:
        MapFolder(out, "--maps", names, read=[])
    assert caught.value.hint
    assert (out / "a" / "1.png").read_bytes() == b"mine"
    again = MapFolder(out, "--maps", {"a/0.png", "b.png"}, read=[])
    again.begin()
    assert set(outputs.listed(out)) == {
        "a/0.png",
        "b.png",
    }  # before any is written: a kill leaves none without an owner
    again.end()
    assert set(outputs.listed(out)) == {"a/0.png"}


def test_a_picture_in_the_place_of_a_map_is_none_of_ours(tmp_path: Path) -> None:
    """The list goes by what was written, not by names alone: maps may have been removed and photographs put there."""
    out = tmp_path / "maps"
    first = MapFolder(out, "--maps", {"0.png"}, read=[])
    first.begin()
    first.write("0.png", b"map")
    first.end()
    MapFolder(out, "--maps", {"0.png"}, read=[])
    (out / "0.png").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"0\.png: is there and is no map"):
        MapFolder(out, "--maps", {"0.png"}, read=[])
    assert (out / "0.png").read_bytes() == b"mine"


def test_a_run_that_was_killed_may_be_run_again(tmp_path: Path) -> None:
    out = tmp_path / "maps"
    for data in (b"map", b"another"):
        run = MapFolder(out, "--maps", {"0.png", "1.png"}, read=[])
        run.begin()
        run.write("0.png", data)  # and no end
    last = MapFolder(out, "--maps", {"0.png", "1.png"}, read=[])
    last.begin()
    last.write("1.png", b"map")
    last.end()
    assert set(outputs.listed(out)) == {"0.png", "1.png"}


def test_overlays_and_raw_maps_share_a_folder(tmp_path: Path) -> None:
    pair = [MapFolder(tmp_path / "m", "--maps", {f"0{suffix}"}, read=[]) for suffix in (".png", ".npy")]
    for folder in pair:
        folder.begin()
    for folder in pair:
        folder.write(next(iter(folder.names)), b"map")
    for folder in pair:
        folder.end()
    assert set(outputs.listed(tmp_path / "m")) == {"0.png", "0.npy"}


def test_maps_go_through_no_link(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "a").symlink_to(tmp_path / "photos")
    with pytest.raises(DataError, match="is a link out of the folder"):
        MapFolder(tmp_path / "maps", "--maps", {"a/0.png"}, read=[])
    (tmp_path / "maps" / "b").write_text("mine")
    with pytest.raises(DataError, match="is no folder"):
        MapFolder(tmp_path / "maps", "--maps", {"b/0.png"}, read=[])


@pytest.mark.parametrize(("lister", "suffix"), [
    (lambda folder: images_in(folder, deep=True), ".png"),
    (lambda folder: recordings_in(folder, deep=True), ".npy"),
    (clouds_in, ".npy"),
])  # fmt: skip
def test_maps_of_earlier_runs_are_no_inputs(tmp_path: Path, lister: object, suffix: str) -> None:
    maps = MapFolder(tmp_path / "set" / "maps", "--maps", {f"a/0{suffix}"}, read=[])
    maps.begin()
    maps.write(f"a/0{suffix}", b"map")
    maps.end()
    own_images = [tmp_path / "set" / f"0{suffix}", tmp_path / "set" / "maps" / "a" / f"mine{suffix}"]
    for path in own_images:
        path.write_bytes(b"mine")
    with pytest.warns(UserWarning, match="1 maps that an earlier run drew"):
        assert lister(tmp_path / "set") == own_images  # type: ignore[operator]
    with pytest.warns(UserWarning, match="1 maps that an earlier run drew"):
        assert lister(tmp_path / "set" / "maps" / "a") == own_images[1:]  # type: ignore[operator]


@pytest.mark.parametrize(
    "text", ["no json", "[]", '{"maps": 3}', '{"maps": ["a.png"]}', '{"maps": {"a.png": 3}}', "{}"]
)
def test_a_damaged_list_of_maps_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / MAPS).write_text(text)
    with pytest.raises(DataError, match="is no list of maps"):
        outputs.listed(tmp_path)


def test_two_runs_of_synthetic_defects_are_never_mixed(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"image")
    inputs, out = [(tmp_path / "0.png", "0")], tmp_path / "out"
    RunFolder(out, "perlin", {"seed": 0}, inputs, read=[]).begin()
    RunFolder(out, "perlin", {"seed": 1}, inputs, read=[]).begin()  # nothing was made yet
    (out / "test").mkdir()
    RunFolder(out, "perlin", {"seed": 1}, inputs, read=[]).begin()
    RunFolder(out, "texture", {"seed": 5}, inputs, read=[]).begin()  # another kind, in a folder of its own
    for kind, seed in (("perlin", 0), ("texture", 1)):
        with pytest.raises(DataError, match=rf"{kind} defects of another run \(seed differ\)"):
            RunFolder(out, kind, {"seed": seed}, inputs, read=[])
    with pytest.raises(DataError, match="on other inputs"):
        RunFolder(out, "cutpaste", {"seed": 0}, [(tmp_path / "0.png", "1")], read=[])
    with pytest.raises(DataError, match="on other inputs"):
        RunFolder(out, "cutpaste", {"seed": 0}, inputs, read=[], form=".ply")
    (out / outputs.RUN).write_text("no json")
    with pytest.raises(DataError, match="describes no run"):
        RunFolder(out, "perlin", {"seed": 1}, inputs, read=[])
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "a.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds 'a\.txt', which no earlier run wrote"):
        RunFolder(tmp_path / "theirs", "perlin", {}, inputs, read=[])
    with pytest.raises(DataError, match="lies in"):
        RunFolder(tmp_path / "in", "perlin", {}, inputs, read=[tmp_path])


def test_names_from_data_never_become_paths() -> None:
    texts = ["../../x", "..", ".", "", "a/b", "a\\b", "a%2Fb", "c:", "x ", " x", "x.", ".x", "a\nb", "\udce9", "nut é"]
    names = [file_name(text) for text in texts]
    assert len(set(names)) == len(texts)
    for name in names:
        assert re.fullmatch(r"[^/\\:\n]+", name)
        assert name not in (".", "..")
        assert not name.startswith(".")
    assert (file_name("nut é"), file_name("M8-left"), file_name("../x")) == ("nut é", "M8-left", "%2E.%2Fx")
    assert json.dumps(names)
