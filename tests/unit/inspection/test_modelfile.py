"""The model folder: what goes in comes out, what is damaged is refused by name, and nothing half-written is left."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blemish.errors import ModelFileError
from blemish.inspection import modelfile
from blemish.inspection.conformal import Calibrator
from blemish.inspection.meta import BackboneMeta, Meta
from blemish.inspection.modelfile import Model

FILES = ("model.json", "tensors.safetensors", "graph.onnx", "parity.json", "run.json")


def made(seed: int = 0) -> Model:
    """A model that no engine could run: here only its bytes matter."""
    generator = random.Random(seed)
    scores = sorted(generator.uniform(1, 9) for _ in range(19))
    return Model(
        meta=Meta(
            method="any", config={"ridge": 1e-05, "top": 1}, precision="f32", weights="größer → kleiner",
            preprocess={"size": [48, 64], "white_uint16": 65535.0, "white_float": 1.0},
        ),
        calibrators={"f32": Calibrator(tuple(scores), tuple(s + 1 for s in scores), 0.05)},
        tensors=generator.randbytes(900),
        graph=generator.randbytes(2000),
        parity={"engines": {"openvino-f32": {"score": 1.5e-07, "map": 0.0}}},
        run={"method": "any", "seed": seed, "options": {}},
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    modelfile.save(made(), tmp_path / "part.blemish")
    return tmp_path / "part.blemish"


def refused(folder: Path, name: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        modelfile.load(folder)
    assert str(folder / name) in str(caught.value)


def test_round_trip(folder: Path) -> None:
    assert modelfile.load(folder) == made()
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)


def test_the_same_model_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    modelfile.save(modelfile.load(folder), tmp_path / "copy")
    assert all((folder / n).read_bytes() == (tmp_path / "copy" / n).read_bytes() for n in FILES)


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    generator = random.Random(name)
    places = {0, len(data) - 1, *generator.sample(range(len(data)), min(58, len(data)))}
    for place in sorted(places):
        damaged = bytearray(data)
        damaged[place] ^= 1 << generator.randrange(8)
        (folder / name).write_bytes(damaged)
        refused(folder, name)


def test_one_number_written_in_two_ways(folder: Path) -> None:
    """1e-05 and 1E-05 are one bit apart and one number: the bytes are what is checked, not only the values."""
    data = (folder / "model.json").read_bytes()
    assert data.count(b"1e-05") == 1
    (folder / "model.json").write_bytes(data.replace(b"1e-05", b"1E-05"))
    refused(folder, "model.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_cut_short(folder: Path, name: str, share: float) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: min(int(len(data) * share), len(data) - 1)])
    refused(folder, name)


@pytest.mark.parametrize("name", FILES)
def test_missing(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelFileError, match=name.replace(".", r"\.")):
        modelfile.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_folder_in_place_of_a_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    refused(folder, name)


@pytest.mark.parametrize("text", [
    b"no json", b"[]", b"7", b"null", b"{}", b'{"schema": 1}', b'{"schema": 1, "digest": "x"}', b"\xff\xfe\x00",
    b"[" * 100_000, b'{"schema": 1, "digest": NaN}', b'{"digest": "x", "schema": 1, "a": Infinity}',
])  # fmt: skip
def test_a_description_that_is_none(folder: Path, text: bytes) -> None:
    (folder / "model.json").write_bytes(text)
    refused(folder, "model.json")


def signed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite the description with a digest that fits, as another version of the program might have."""
    head = json.loads((folder / "model.json").read_bytes())
    del head["digest"]
    change(head)
    text = json.dumps(head, sort_keys=True, separators=(",", ":")).encode()
    whole = {**head, "digest": hashlib.sha256(text).hexdigest()}
    (folder / "model.json").write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n")


@pytest.mark.parametrize("key", ["files", "calibration", "preprocess", "precision", "method"])
def test_a_description_that_lacks_something(folder: Path, key: str) -> None:
    signed(folder, lambda head: head.pop(key))
    refused(folder, "model.json")


@pytest.mark.parametrize(
    "part", [{"backbone": {"name": "x"}}, {"vote": {"level": 1}}, {"adapted": [{"share": 1}]}, {"training": [{}]}]
)
def test_a_part_of_the_description_that_lacks_something(folder: Path, part: dict[str, Any]) -> None:
    signed(folder, lambda head: head.update(part))
    refused(folder, "model.json")


def test_a_model_that_says_nothing_of_its_weights(folder: Path) -> None:
    """As earlier versions wrote it."""
    signed(folder, lambda head: head.update(backbone={"name": "net", "identity": "net@123/2", "layers": [2]}))
    assert modelfile.load(folder).meta.backbone == BackboneMeta("net", "net@123/2", (2,))


@pytest.mark.parametrize("name", FILES[1:])
def test_a_description_that_does_not_list_a_file(folder: Path, name: str) -> None:
    signed(folder, lambda head: head["files"].pop(name))
    refused(folder, "model.json")


@pytest.mark.parametrize("entry", [{}, {"kind": "split"}, 7, {"scores": 1, "peaks": 1, "alpha": 1, "kind": "split"}])
def test_a_calibration_that_is_none(folder: Path, entry: Any) -> None:
    signed(folder, lambda head: head["calibration"].update(f32=entry))
    refused(folder, "model.json")


def test_unchanged_but_signed_again_loads(folder: Path) -> None:
    signed(folder, lambda head: None)
    assert modelfile.load(folder) == made()


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_another_schema(folder: Path, schema: Any) -> None:
    signed(folder, lambda head: head.update(schema=schema))
    with pytest.raises(ModelFileError, match="schema") as caught:
        modelfile.load(folder)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["", "absent", "file"])
def test_no_model_there(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelFileError):
        modelfile.load(tmp_path / name)


def test_saving_over_an_older_model(folder: Path) -> None:
    modelfile.save(made(1), folder)
    assert modelfile.load(folder) == made(1)
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_saving_makes_the_folders_above(tmp_path: Path) -> None:
    modelfile.save(made(), tmp_path / "a" / "b" / "c")
    assert modelfile.load(tmp_path / "a" / "b" / "c") == made()


@pytest.mark.parametrize("what", ["file", "pictures"])
def test_something_else_is_not_overwritten(tmp_path: Path, what: str) -> None:
    target = tmp_path / "taken"
    if what == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "a.png").write_text("mine")
    with pytest.raises(ModelFileError, match="no model folder"):
        modelfile.save(made(), target)
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]
    assert target.is_dir() == (what != "file")


def fail_at(patch: pytest.MonkeyPatch, function: str, call: int) -> None:
    """Let the `call`-th call of an `os` function raise, as a full disk or an interrupt would."""
    real, seen = getattr(os, function), []

    def broken(*arguments: Any, **options: Any) -> Any:
        seen.append(1)
        if len(seen) == call:
            raise OSError(28, "No space left on device")
        return real(*arguments, **options)

    patch.setattr(modelfile.os, function, broken)


@pytest.mark.parametrize(("function", "call"), [("fsync", 1), ("fsync", 5), ("rename", 1), ("rename", 2)])
def test_a_failure_while_saving_leaves_the_old_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, function: str, call: int
) -> None:
    monkeypatch.setattr(modelfile, "_exchange", lambda *_: False)  # a system that cannot swap in one step
    fail_at(monkeypatch, function, call)
    with pytest.raises(ModelFileError, match=r"part\.blemish: cannot be written \(No space left"):
        modelfile.save(made(1), folder)
    monkeypatch.undo()
    assert modelfile.load(folder) == made()
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_an_older_model_is_replaced_where_nothing_can_be_renamed_over(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows renames over no folder, be it empty."""
    rename = os.rename

    def strict(source: Path, target: Path) -> None:
        if target.exists():
            raise FileExistsError(17, "File exists", str(target))
        rename(source, target)

    monkeypatch.setattr(modelfile, "_exchange", lambda *_: False)
    monkeypatch.setattr(modelfile.os, "rename", strict)
    modelfile.save(made(1), folder)
    assert modelfile.load(folder) == made(1)
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_a_mounted_file_system_is_not_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda place: Path(place) == folder)
    with pytest.raises(ModelFileError, match="whose root cannot be replaced") as caught:
        modelfile.check_place(folder)
    assert str(folder / "part.blemish") in str(caught.value.hint)


@pytest.mark.parametrize(("function", "call"), [("fsync", 3), ("rename", 1)])
def test_a_failure_while_saving_leaves_nothing_where_nothing_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, call: int
) -> None:
    fail_at(monkeypatch, function, call)
    with pytest.raises(ModelFileError, match=r"new: cannot be written \(No space left"):
        modelfile.save(made(), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("written", range(5))
def test_a_half_written_folder_never_loads(folder: Path, written: int) -> None:
    partial = folder.parent / f".{folder.name}.abc.partial"
    order = (*FILES[1:], FILES[0])
    partial.mkdir()
    for name in order[:written]:
        shutil.copy(folder / name, partial / name)
    with pytest.raises(ModelFileError):
        modelfile.load(partial)


def test_an_older_model_is_swapped_in_one_step(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    if not modelfile._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this system cannot exchange two folders")
    fail_at(monkeypatch, "rename", 1)  # not needed then: the place is never empty
    modelfile.save(made(1), folder)
    assert modelfile.load(folder) == made(1)
    assert [p.name for p in folder.parent.iterdir() if p.name.startswith(".")] == []


def test_what_killed_saves_left_is_swept_after_an_hour(folder: Path) -> None:
    old, fresh = (folder.parent / f".{folder.name}.{name}.partial" for name in ("old_old_", "fresh_ab"))
    for left in (old, fresh):
        left.mkdir()
    os.utime(old, (0, 0))
    modelfile.save(made(1), folder)
    assert not old.exists()
    assert fresh.exists()
