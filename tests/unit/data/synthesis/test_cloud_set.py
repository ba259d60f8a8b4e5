"""The studio of defects on clouds: files in, files out, labels that hold for what lies on disk; pictures, the page."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from blemish.data.cloud.formats import read_cloud, write_cloud
from blemish.data.cloud.render import draw, shape_of, view_of
from blemish.data.image.decode import read_image
from blemish.data.synthesis import cloud_sheets
from blemish.data.synthesis.cloud_set import surfaces
from blemish.data.synthesis.cloud_viewer import tinted
from blemish.errors import ConfigError, DataError
from blemish.ops import geometry
from blemish.types import Cloud

for package in ("scipy", "plyfile", "pypcd4", "tifffile"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'blemish[3d]'")

QUICK = {"pictures": False, "options": {"strength": 0.03, "radius": 0.3}}


def grid(normals: bool = False, faces: bool = False, shape: tuple[int, int] | None = None) -> Cloud:
    h, w = 40, 50
    y, x = np.meshgrid(np.linspace(0, 0.8, h), np.linspace(0.1, 1.1, w), indexing="ij")
    points = np.stack([x, y, 1 + 0.1 * np.sin(3 * x)], 2).reshape(-1, 3).astype(np.float32)
    n = np.stack([-0.3 * np.cos(3 * x), 0 * y, np.ones_like(x)], 2).reshape(-1, 3)
    n = (n / np.linalg.norm(n, axis=1, keepdims=True)).astype(np.float32)
    at = np.arange(h * w).reshape(h, w)
    a, b, c, d = (v.reshape(-1) for v in (at[:-1, :-1], at[:-1, 1:], at[1:, 1:], at[1:, :-1]))
    triangles = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    camera = None if shape is None else (0.0, 0.0, 0.0)
    return Cloud(points, n if normals else None, triangles if faces else None, shape, camera)


def run(source: Path, out: Path, **options: Any) -> list[dict[str, Any]]:
    return list(surfaces(source, out, **{**QUICK, **options}))


@pytest.mark.parametrize("suffix", [".ply", ".pcd", ".xyz", ".npy", ".obj", ".stl", ".tiff"])
def test_labels_are_those_of_the_files_on_disk(tmp_path: Path, suffix: str) -> None:
    organised, mesh = suffix in (".tiff", ".npy", ".pcd"), suffix in (".obj", ".stl")
    source = grid(suffix in (".ply", ".xyz"), mesh, (40, 50) if organised else None)
    source.points[7] = 0 if organised else source.points[7]
    write_cloud(tmp_path / f"part{suffix}", source)
    (row,) = run(tmp_path / f"part{suffix}", tmp_path / "out", points=0)
    before, after = read_cloud(row["good"]), read_cloud(row["path"])
    record = json.loads(
        (Path(row["path"]).parent.parent / ("" if suffix == ".tiff" else "random") / "part.json").read_text()
    )
    labels = np.load(row["labels"])
    length = np.linalg.norm(after.points.astype(np.float64) - before.points, axis=1)
    assert np.array_equal(labels.reshape(-1) == 1, length > record["limit"])
    assert 20 < labels.sum() < len(length) / 2
    still = labels.reshape(-1) == 0
    assert after.points[still].tobytes() == before.points[still].tobytes()
    assert labels.shape == ((40, 50) if organised else (len(length),))
    assert (row["moved"], row["points"]) == (labels.sum(), before.valid.sum())
    if organised:
        assert after.shape == (40, 50)
        assert not after.valid[7]
        assert labels.reshape(-1)[7] == 0
    if suffix in (".ply", ".pcd", ".xyz"):
        assert np.array_equal(after.fields["label"], labels.reshape(-1))
        assert np.array_equal(after.fields["component"] > 0, labels.reshape(-1) == 1)
        assert np.abs(after.fields["displacement"]) == pytest.approx(length, rel=1e-3, abs=1e-9)
    else:
        beside = np.load(Path(row["labels"]).with_name("part_displacement.npy"))
        assert np.abs(beside.reshape(-1)) == pytest.approx(length, rel=1e-3, abs=1e-9)
    if mesh:
        assert np.array_equal(before.faces, after.faces)
    if after.normals is not None:
        assert after.normals[still].tobytes() == before.normals[still].tobytes()
        assert (after.normals[~still] != before.normals[~still]).any()
    assert record["versions"]["numpy"] == np.__version__
    assert (record["options"]["strength"], record["normals"]) == (
        0.03,
        "faces" if mesh else "camera" if organised else "given",
    )


def test_an_organised_tiff_is_laid_out_as_mvtec_3d(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "good"
    write_cloud(folder / "xyz" / "000.tiff", grid(shape=(40, 50)))
    (folder / "rgb").mkdir()
    cv2.imwrite(str(folder / "rgb" / "000.png"), np.full((40, 50, 3), 90, np.uint8))
    (row,) = run(folder / "xyz", tmp_path / "out", preset="bump")
    truth = read_image(tmp_path / "out" / "test" / "bump" / "gt" / "000.png")
    assert np.array_equal(truth > 0, np.load(row["labels"]) == 1)
    assert (tmp_path / "out" / "test" / "bump" / "rgb" / "000.png").is_file()
    assert row["path"].endswith("test/bump/xyz/000.tiff")


def test_an_output_depends_on_its_own_file_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_cloud(tmp_path / "in" / f"{name}.ply", grid())
    both = run(tmp_path / "in", tmp_path / "x", count=2)
    (tmp_path / "in" / "a.ply").unlink()
    alone = run(tmp_path / "in", tmp_path / "y", count=2)
    assert len(both) == 4
    for first, second in zip(both[2:], alone, strict=True):
        assert Path(first["path"]).read_bytes() == Path(second["path"]).read_bytes()
    assert len({Path(r["path"]).read_bytes() for r in both}) == 4
    (other, _) = run(tmp_path / "in", tmp_path / "z", count=2, seed=1)
    assert Path(other["path"]).read_bytes() != Path(alone[0]["path"]).read_bytes()


def test_a_mesh_of_few_vertices_gets_points_of_its_faces(tmp_path: Path) -> None:
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    write_cloud(tmp_path / "cube.stl", Cloud(corners, faces=faces))
    (row,) = run(tmp_path / "cube.stl", tmp_path / "out", points=5000)
    good = read_cloud(row["good"])
    assert (row["points"], Path(row["path"]).suffix) == (5000, ".ply")
    assert np.abs(np.abs(good.points - 0.5).max(1) - 0.5).max() < 1e-6
    outward = ((good.points - 0.5) * good.normals).sum(1)
    assert outward == pytest.approx(0.5, abs=1e-5)
    tree = geometry.tree_of(good.points.astype(float))
    nearest = tree.query(good.points, k=2)[0][:, 1]
    assert np.quantile(nearest, 0.1) > 0.4 * np.sqrt(6 / 5000)  # spread: by chance alone it would be 0.18
    with pytest.raises(DataError, match="holds 8 points"):
        run(tmp_path / "cube.stl", tmp_path / "vertices", points=0)


def test_a_folder_goes_on_past_what_is_broken(tmp_path: Path) -> None:
    write_cloud(tmp_path / "in" / "b.ply", grid())
    (tmp_path / "in" / "a.ply").write_bytes(b"ply nonsense")
    write_cloud(tmp_path / "in" / "c.ply", Cloud(np.random.default_rng(0).random((10, 3))))
    rows = run(tmp_path / "in", tmp_path / "out")
    assert [r["error"] is None for r in rows] == [False, True, False]
    assert str(tmp_path / "in" / "a.ply") in rows[0]["error"]
    assert "c.ply: holds 10 points" in rows[2]["error"]
    with pytest.raises(DataError, match=r"c\.ply: holds 10 points"):
        run(tmp_path / "in" / "c.ply", tmp_path / "single")


def test_points_that_are_none_are_passed_over(tmp_path: Path) -> None:
    source = grid()
    source.points[:300] = np.nan
    write_cloud(tmp_path / "a.ply", source)
    (row,) = run(tmp_path / "a.ply", tmp_path / "out")
    assert row["points"] == 1700
    assert np.isnan(read_cloud(row["path"]).points[:300]).all()


def test_nothing_moved_is_said(tmp_path: Path) -> None:
    write_cloud(tmp_path / "a.ply", grid())
    with pytest.warns(UserWarning, match="nothing moved farther than"):
        (row,) = run(tmp_path / "a.ply", tmp_path / "out", options={"strength": 1e-5})
    assert (row["moved"], row["share"]) == (0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "dint"}, "no preset 'dint'"),
        ({"count": 0}, "at least one defect"),
        ({"points": 50}, "needs 100 points"),
        ({"suffix": ".dwg"}, "'.dwg' is not written"),
        ({"options": {"scale": -1.0}}, "option 'scale'"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    write_cloud(tmp_path / "a.ply", grid())
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "a.ply", tmp_path / "out", **options)


def test_pictures_and_the_page_hold_the_defect(tmp_path: Path) -> None:
    for name, faces in (("mesh", True), ("cloud", False)):
        write_cloud(tmp_path / f"{name}.ply", grid(faces=faces))
        out = tmp_path / name
        rows = run(tmp_path / f"{name}.ply", out, preset="bump", pictures=True, points=0)
        sheet = read_image(out / "sheet.png").astype(int)
        assert ((sheet[..., 0] > sheet[..., 2] + 60).sum()) > 500  # red, for what bulges
        page = (out / "viewer.html").read_text(encoding="utf-8")
        assert not re.search(r"(?:src|href)=|https?:", page)
        (shown,) = json.loads(re.search(r"const CLOUDS = (\[.*\]);", page)[1])
        count = 40_000 if faces else rows[0]["points"]
        assert shown["points"] == count
        for text in shown["places"]:
            assert len(base64.b64decode(text)) == 6 * count
        levels = np.frombuffer(base64.b64decode(shown["levels"]), np.int8)
        assert (levels != 0).mean() == pytest.approx(rows[0]["share"], rel=0.8)
        assert levels.max() == 127


@pytest.mark.slow
def test_a_grid_of_parameters_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, values in (("OCTAVES", (1, 3)), ("STRENGTHS", (0.01, 0.02)), ("SCALES", (4.0,))):
        monkeypatch.setattr(cloud_sheets, name, values)
    write_cloud(tmp_path / "a.ply", grid(faces=True))
    run(tmp_path / "a.ply", tmp_path / "out", grid=True)
    height, width, _ = read_image(tmp_path / "out" / "grid.png").shape
    assert width > 2 * 160
    assert height > 2 * 160


def test_what_is_near_hides_what_is_far_and_light_comes_from_the_left() -> None:
    x, y = np.meshgrid(np.linspace(-1, 1, 60), np.linspace(-1, 1, 60))
    flat = np.stack([x.ravel(), y.ravel(), np.zeros(3600)], 1)
    both = np.concatenate([flat, flat * 0.5 + [0, 0, 0.3]])
    near = geometry.nearest(geometry.tree_of(both), both, 9)
    red = tinted(np.repeat([0.0, 1.0], 3600), 1.0)
    for toward, hidden in (([0.0, 0, 1], False), ([0.0, 0, -1], True)):
        picture = draw(shape_of(both, None, near), red, view_of(both, np.array(toward)), 120).astype(int)
        assert (picture[60, 60, 0] < picture[60, 60, 2] + 30) == hidden
    ball = np.random.default_rng(0).standard_normal((20000, 3))
    ball /= np.linalg.norm(ball, axis=1, keepdims=True)
    near = geometry.nearest(geometry.tree_of(ball), ball, 9)
    picture = draw(shape_of(ball, None, near), None, view_of(ball, np.array([0.0, 0, 1])), 120)
    assert (picture[3, 3] == 255).all()
    assert picture[40:80, 20:50].mean() > picture[40:80, 70:100].mean() + 20
