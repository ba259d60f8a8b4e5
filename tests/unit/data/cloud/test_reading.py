"""Point clouds and meshes: what is read is what is there, what is written reads back to the same bits."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blemish.data.cloud.formats import HOLDS_FIELDS, SUFFIXES, clouds_in, read_cloud, write_cloud
from blemish.data.cloud.ply import fans, strips
from blemish.errors import DataError
from blemish.types import Cloud

for package in ("plyfile", "pypcd4", "tifffile"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'blemish[3d]'")

FIELDS = {
    "label": np.array([0, 1, 0, 1, 1, 0], np.uint8),
    "displacement": np.array([0, 0.1, 0, -1e-7, 3e8, 0], np.float32),
    "component": np.array([0, 1, 0, 2, 70000, 0], np.int32),
}


def cloud(kind: Any = np.float32, shape: tuple[int, int] | None = None, **more: Any) -> Cloud:
    points = (np.random.default_rng(0).standard_normal((6, 3)) * [1e-5, 1, 1e5]).astype(kind)
    viewpoint = None if shape is None else (0.0, 0.0, 0.0)
    return Cloud(points, shape=shape, viewpoint=viewpoint, **more)


def normals(kind: Any = np.float32) -> np.ndarray:
    n = np.random.default_rng(1).standard_normal((6, 3))
    return (n / np.linalg.norm(n, axis=1, keepdims=True)).astype(kind)


def round_trip(path: Path, value: Cloud) -> Cloud:
    write_cloud(path, value)
    return read_cloud(path)


def same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.tobytes() == b.astype(a.dtype).tobytes() and bool((a.astype(b.dtype) == b).all())


@pytest.mark.parametrize("suffix", sorted(HOLDS_FIELDS))
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_points_normals_and_fields_come_back(tmp_path: Path, suffix: str, kind: Any) -> None:
    value = cloud(kind, normals=normals(kind), fields=FIELDS)
    back = round_trip(tmp_path / f"a{suffix}", value)
    assert same(value.points, back.points)
    assert same(value.normals, back.normals)
    assert list(back.fields) == list(FIELDS)
    for name, values in FIELDS.items():
        assert same(values, back.fields[name])
        assert back.fields[name].dtype == values.dtype


@pytest.mark.parametrize("suffix", [".ply", ".pcd", ".tiff", ".npy"])
def test_rows_and_columns_come_back(tmp_path: Path, suffix: str) -> None:
    value = cloud(shape=(2, 3))
    value.points[1] = 0
    value.points[4] = np.nan
    back = round_trip(tmp_path / f"a{suffix}", value)
    assert (back.shape, back.viewpoint) == ((2, 3), (0.0, 0.0, 0.0))
    assert back.points.tobytes() == value.points.tobytes()
    assert back.valid.tolist() == [True, False, True, True, False, True]


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".stl"])
def test_faces_come_back(tmp_path: Path, suffix: str) -> None:
    value = cloud(faces=np.array([[0, 1, 2], [2, 1, 3], [3, 4, 5]]))
    back = round_trip(tmp_path / f"a{suffix}", value)
    assert back.points.astype(np.float32).tobytes() == value.points.tobytes()
    assert np.array_equal(back.faces, value.faces)


def test_text_stl_is_that_of_its_binary(tmp_path: Path) -> None:
    value = cloud(faces=np.array([[0, 1, 2], [2, 1, 3]]))
    rows = ["solid x"]
    for face in value.faces:
        corners = [f"  vertex {x:.9g} {y:.9g} {z:.9g}" for x, y, z in value.points[face].tolist()]
        rows += [" facet normal 0 0 1", "  outer loop", *corners, "  endloop", " endfacet"]
    (tmp_path / "a.stl").write_text("\n".join([*rows, "endsolid x"]), encoding="ascii")
    back = read_cloud(tmp_path / "a.stl")
    assert np.array_equal(back.faces, value.faces)
    assert back.points.tobytes() == value.points[:4].tobytes()


def test_an_obj_is_read_with_polygons_textures_and_negative_indices(tmp_path: Path) -> None:
    head = "# made\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvn 0 0 1\n"
    (tmp_path / "a.obj").write_text(f"{head}f 1/1/1 2/1/1 3/1/1 4/1/1\nv 0 0 1\nf -1 1//1 2\n", encoding="ascii")
    back = read_cloud(tmp_path / "a.obj")
    assert len(back.points) == 5
    assert back.faces.tolist() == [[0, 1, 2], [4, 0, 1], [0, 2, 3]]


def test_a_ply_of_strips_text_and_polygons_is_read(tmp_path: Path) -> None:
    head = "ply\nformat ascii 1.0\nelement vertex 5\nproperty double x\nproperty double y\nproperty double z\n"
    points = "0 0 0\n1 0 0\n1 1 0\n0 1 0\n0 0 1\n"
    tail = "element tristrips 1\nproperty list int int vertex_indices\nend_header\n"
    (tmp_path / "s.ply").write_text(f"{head}{tail}{points}8 0 1 2 3 -1 2 3 4\n", encoding="ascii")
    assert read_cloud(tmp_path / "s.ply").faces.tolist() == [[0, 1, 2], [2, 1, 3], [2, 3, 4]]
    tail = "element face 2\nproperty list uchar int vertex_index\nend_header\n"
    (tmp_path / "f.ply").write_text(f"{head}{tail}{points}4 0 1 2 3\n3 0 1 4\n", encoding="ascii")
    back = read_cloud(tmp_path / "f.ply")
    assert (back.points.dtype, sorted(back.faces.tolist())) == (np.float64, [[0, 1, 2], [0, 1, 4], [0, 2, 3]])


def test_strips_keep_their_side_and_fans_their_corners() -> None:
    assert strips(np.array([0, 1, 2, 2, 3, -1])).tolist() == [[0, 1, 2]]
    assert strips(np.array([5, 4, 3, 2, 1])).tolist() == [[5, 4, 3], [3, 4, 2], [3, 2, 1]]
    assert fans([[0, 1, 2, 3, 4], [7, 8]]).tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 4]]


def test_a_compressed_pcd_with_padding_and_colour_is_read(tmp_path: Path) -> None:
    from pypcd4 import Encoding, PointCloud

    points = np.random.default_rng(0).random((50, 4)).astype(np.float32)
    for encoding in Encoding:
        file = PointCloud.from_points(list(points.T), ("x", "y", "z", "rgb"), (np.float32,) * 4)
        out = BytesIO()
        file.save(out, encoding)
        (tmp_path / "a.pcd").write_bytes(out.getvalue())
        back = read_cloud(tmp_path / "a.pcd")
        assert back.points == pytest.approx(points[:, :3], abs=1e-5)
        assert list(back.fields) == ["rgb"]


def test_a_depth_image_becomes_points_of_its_camera(tmp_path: Path) -> None:
    import cv2

    depth = np.full((4, 6), 2000, np.uint16)
    depth[0, 0] = 0
    cv2.imwrite(str(tmp_path / "d.png"), depth)
    back = read_cloud(tmp_path / "d.png", intrinsics=(100.0, 50.0, 2.5, 1.5))
    assert back.shape == (4, 6)
    assert back.valid.sum() == 23
    assert back.points[5] == pytest.approx([2.5 / 100 * 2, -1.5 / 50 * 2, 2.0])
    with pytest.raises(DataError, match="the camera is not known") as error:
        read_cloud(tmp_path / "d.png")
    assert "--intrinsics" in str(error.value.hint)


def test_columns_without_names_are_points_normals_and_the_rest(tmp_path: Path) -> None:
    n = normals(np.float64)
    values = np.concatenate([cloud(np.float64).points, n, np.arange(6)[:, None]], 1)
    np.savetxt(tmp_path / "a.xyz", values, delimiter=", ", fmt="%.17g")
    back = read_cloud(tmp_path / "a.xyz")
    assert np.array_equal(back.normals, n)
    assert back.fields["column_7"].tolist() == [0, 1, 2, 3, 4, 5]
    np.savetxt(tmp_path / "label.txt", values[:, [0, 1, 2, 6]])  # as Real3D-AD has its labels
    assert read_cloud(tmp_path / "label.txt").normals is None
    named = np.ones(3, [("x", "f4"), ("y", "f4"), ("z", "f4"), ("intensity", "u2")])
    np.save(tmp_path / "named.npy", named)
    assert read_cloud(tmp_path / "named.npy").fields["intensity"].dtype == np.uint16


@pytest.mark.parametrize("suffix", [".xyz", ".txt"])
@pytest.mark.parametrize("mark", [";", "\t", " ", "; "])
def test_decimal_commas_are_read_where_they_are_clear(tmp_path: Path, suffix: str, mark: str) -> None:
    values = np.random.default_rng(0).normal(size=(40, 3)).round(4)
    rows = [mark.join(f"{v:.4f}".replace(".", ",") for v in row) for row in values]
    (tmp_path / f"a{suffix}").write_text("\n".join(["# x y z", *rows]))
    np.testing.assert_array_equal(read_cloud(tmp_path / f"a{suffix}").points, values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,5,1,2,3,4\n0,05,1,3,2,2\n", "decimal commas"),
        ("# x y z\n10,5,11,2,13,4\n", "names 3 columns and holds 6: decimal commas"),
        ("0,5;1.2;3,4\n", "decimal commas .* and decimal points"),
        ("1.000,5 1,2 3,4\n", "'1.000,5' is no number"),
        ("1 2 3\n4 5\n", "damaged or cut short .*columns"),
    ],
)
def test_numbers_that_may_mean_two_things_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.xyz").write_text(text)
    with pytest.raises(DataError, match=rf"a\.xyz: .*{message}"):
        read_cloud(tmp_path / "a.xyz")


def test_other_encodings_of_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("1 2 3\n", encoding="utf-16")
    with pytest.raises(DataError, match="UTF-16"):
        read_cloud(tmp_path / "a.xyz")
    (tmp_path / "b.xyz").write_bytes("# in µm\n1, 2, 3\n".encode("latin-1"))  # a comment says nothing
    assert read_cloud(tmp_path / "b.xyz").points.tolist() == [[1, 2, 3]]


def test_rows_of_zeros_are_no_points_where_there_is_no_grid() -> None:
    """One may be a corner, several are what a scanner writes; a mesh has its corners where it has them."""
    points = np.arange(30.0).reshape(10, 3)
    assert Cloud(points * [[0], *[[1]] * 9]).valid.sum() == 10
    points[:3] = 0
    assert Cloud(points).valid.tolist() == [False] * 3 + [True] * 7
    assert Cloud(points, faces=np.array([[0, 4, 5]])).valid.all()


PLY = b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float a\nend_header\n1\n"
PCD = b"VERSION .7\nFIELDS x y\nSIZE 4 4\nTYPE F F\nCOUNT 1 1\nWIDTH 1\nHEIGHT 1\nPOINTS 1\nDATA ascii\n1 2\n"
BAD = {
    "a.ply": (b"nonsense", "damaged or cut short"),
    "b.ply": (PLY, "no x, y, z"),
    "c.pcd": (PCD, "no fields x, y, z"),
    "d.pcd": (b"# .PCD\n", "damaged or cut short"),
    "e.stl": (b"\0" * 90, "no STL of the length"),
    "f.stl": (b"\0" * 84, "mesh without faces"),
    "g.obj": (b"f 1 2 3\n", "a vertex that is not there"),
    "h.obj": (b"# nothing\n", "holds no point"),
    "i.tiff": (b"II*\0....", r"holds \(0,\)"),
    "i.tif": (b"no image at all", "damaged or cut short"),
    "j.xyz": (b"1 2\n3 4\n", "2 columns of numbers"),
    "k.txt": (b"one two three\n", "damaged or cut short"),
    "l.npy": (b"\x93NUMPY", "damaged or cut short"),
    "m.xyz": (b"nan nan nan\n" * 9, "holds no point"),
    "n.ply": (b"", "file is empty"),
    "o.dwg": (b"x", "'.dwg' is no kind of point cloud that is read"),
}


@pytest.mark.filterwarnings("ignore:loadtxt")
@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named_and_described(tmp_path: Path, name: str) -> None:
    data, message = BAD[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message) as error:
        read_cloud(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path / name}: ")
    assert error.value.hint


def test_files_that_are_cut_short_are_refused(tmp_path: Path) -> None:
    value = Cloud(np.random.default_rng(0).random((500, 3)).astype(np.float32), faces=np.arange(300).reshape(-1, 3))
    for suffix in (".ply", ".pcd", ".stl", ".npy"):
        path = tmp_path / f"a{suffix}"
        write_cloud(path, value)
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(DataError, match="cut short|promises|of the length|damaged"):
            read_cloud(path)


def test_what_a_kind_of_file_cannot_hold_is_said(tmp_path: Path) -> None:
    for suffix, message in ((".stl", "holds faces"), (".tiff", "organised cloud"), (".png", "no kind")):
        with pytest.raises(DataError, match=message):
            write_cloud(tmp_path / f"a{suffix}", cloud())
    with pytest.raises(DataError, match="no such file"):
        read_cloud(tmp_path / "none.ply")


def test_a_folder_lists_what_is_a_cloud_by_its_name(tmp_path: Path) -> None:
    for name in ("a.ply", "b/c.STL", "d.txt", "e.png", "f.json", ".g.ply"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [p.name for p in clouds_in(tmp_path)] == ["a.ply", "c.STL"]
    assert [p.name for p in clouds_in(tmp_path, depth=True)] == ["a.ply", "c.STL", "e.png"]
    assert set(SUFFIXES) >= HOLDS_FIELDS


def test_real_meshes_are_read(shared_data: Path) -> None:
    """One is stored as triangle strips: a closed surface of one piece comes out of them."""
    igea = read_cloud(shared_data / "meshes3d" / "igea.ply")
    assert (len(igea.points), len(igea.faces)) == (134345, 268686)
    edges = np.concatenate([igea.faces[:, [0, 1]], igea.faces[:, [1, 2]], igea.faces[:, [2, 0]]])
    assert np.unique(edges @ np.array([2**20, 1])).size == len(edges)  # each way once: wound alike
    coloured = read_cloud(shared_data / "meshes3d" / "cycloidal.ply")
    assert set(coloured.fields) == {"red", "green", "blue", "alpha"}
