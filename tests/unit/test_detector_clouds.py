"""Point clouds through the whole line: detector, model folder, promise, results, evaluation, report and commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from blemish import Detector
from blemish.cli import main
from blemish.data import layouts
from blemish.data.cloud import picture as cloud_heat
from blemish.data.cloud.formats import read_cloud, write_cloud
from blemish.data.cloud.modality import Clouds
from blemish.data.cloud.preprocess import CloudPlan, part_of
from blemish.data.drawing import Scale
from blemish.data.image.decode import read_image
from blemish.data.registry import of
from blemish.errors import ConfigError, DataError, EngineError, ModelFileError, OutOfRange
from blemish.inspection.meta import BackboneMeta
from blemish.inspection.modelfile import arrays
from blemish.types import Cloud, Record
from tests.fakes import defective_cloud, good_cloud
from tests.tiny import python

pytestmark = pytest.mark.slow

pytest.importorskip("plyfile", reason="plyfile is not installed: pip install 'blemish[3d]'")

MM = 100  # the parts are so many millimetres across


def cloud_of(x: NDArray[np.float32], **fields: Any) -> Cloud:
    return Cloud(MM * x[:, :3], x[:, 3:].copy(), fields=fields)


def bad_cloud(seed: int) -> Cloud:
    x, labels = defective_cloud(seed)
    return cloud_of(x, label=labels.astype(np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree as `synthesize surface3d` writes them, with clouds to learn from."""
    root = tmp_path_factory.mktemp("clouds") / "sheets"
    for i in range(12):
        write_cloud(root / "train" / "good" / f"{i:02}.ply", cloud_of(good_cloud(i)))
    for i in range(4):
        write_cloud(root / "test" / "good" / f"{i:02}.ply", cloud_of(good_cloud(100 + i)))
    for i in range(3):
        write_cloud(root / "test" / "knob" / f"{i:02}.ply", bad_cloud(200 + i))
    labels = root / "ground_truth" / "knob" / "00_labels.npy"
    labels.parent.mkdir(parents=True)
    np.save(labels, defective_cloud(200)[1].astype(np.uint8))
    return root


def detector(**more: Any) -> Detector:
    return Detector(**{"method": "fpfh", "false_alarm_rate": 0.25, "held_out": 0.35, "cache": False, **more})


@pytest.fixture(scope="module")
def fitted(folder: Path) -> Detector:
    return detector().fit(folder)


@pytest.fixture(scope="module")
def model(fitted: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.blemish"
    fitted.save(path)
    return path


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return int(str(end.value.code))


def test_a_model_of_clouds_says_what_it_is(fitted: Detector, model: Path) -> None:
    meta = Detector.load(model).model.meta
    assert (meta.kind, meta.graph) == ("cloud", False)
    assert meta.backbone == BackboneMeta("none", "none")
    assert meta.preprocess["diagonal"] == pytest.approx(0.99 * MM, rel=0.02)
    assert not (model / "graph.onnx").exists()
    assert str(fitted.promise).startswith("at most 0.25 of good parts rejected")


def test_a_saved_model_gives_the_same_bits_without_torch(fitted: Detector, model: Path, folder: Path) -> None:
    path = folder / "test" / "knob" / "01.ply"
    expected = fitted.inspect(path)
    assert expected.verdict == "anomalous"
    code = (
        f"import sys\nfrom blemish import Detector\nr = Detector.load({str(model)!r}).inspect({str(path)!r})\n"
        "print(repr(r.score), repr(float(r.anomaly_map.sum())), 'torch' in sys.modules, 'safetensors' in sys.modules)"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [repr(expected.score), repr(float(expected.anomaly_map.sum())), "False", "False"]


def test_engines(fitted: Detector, folder: Path) -> None:
    path = folder / "test" / "knob" / "00.ply"
    reference = fitted.inspector("reference").inspect(path)
    result = fitted.inspect(path)
    assert result.score == pytest.approx(reference.score, rel=1e-4)
    np.testing.assert_allclose(result.anomaly_map, reference.anomaly_map, rtol=1e-4, atol=1e-3)
    with pytest.raises(EngineError, match="runs graphs"):
        fitted.inspector("onnxruntime")


def test_results_are_in_the_file_s_rows_and_unit(fitted: Detector, folder: Path) -> None:
    cloud = read_cloud(folder / "test" / "knob" / "00.ply")
    result = fitted.inspect(folder / "test" / "knob" / "00.ply")
    assert result.anomaly_map.shape == (900,)
    line = json.loads(json.dumps(result.to_json()))
    assert set(line["regions"][0]) == {"bbox", "area_px", "peak", "score", "box", "points"}
    top = line["regions"][0]
    low, high = np.array(top["box"][:3]), np.array(top["box"][3:])
    middle = (low + high)[:2] / 2
    assert np.linalg.norm(middle - [0.3 * MM, 0.4 * MM]) < 0.06 * MM
    inside = ((cloud.points >= low - 1e-4) & (cloud.points <= high + 1e-4)).all(1)
    assert top["points"] == top["area_px"] <= inside.sum()
    assert top["peak"] == pytest.approx(float(result.anomaly_map.max()))
    first, y0, last, y1 = top["bbox"]
    assert (y0, y1) == (0, 1)
    assert 0 <= first < last <= 900


def test_files_arrays_batches_and_motions_give_one_score(fitted: Detector, folder: Path, tmp_path: Path) -> None:
    path = folder / "test" / "knob" / "00.ply"
    cloud = read_cloud(path)
    expected = fitted.inspect(path).score
    assert fitted.inspect(cloud).score == expected
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    assert cloud.normals is not None
    moved = Cloud(cloud.points.astype(np.float64) @ turn.T + 1e4, cloud.normals @ turn.T)
    assert fitted.inspect(moved).score == pytest.approx(expected, rel=0.02)
    write_cloud(tmp_path / "same.pcd", cloud)
    assert fitted.inspect(tmp_path / "same.pcd").score == expected
    short = Cloud(cloud.points[:700], cloud.normals[:700])
    line = fitted.inspector(batch=3, threads=1)
    together = list(line.inspect_many([cloud, short, cloud]))
    assert [r.anomaly_map.shape for r in together] == [(900,), (700,), (900,)]
    assert together[0].score == together[2].score == expected
    assert together[1].score == pytest.approx(fitted.inspect(short).score)
    # without normals outside is told from the points, and the sheet may be seen from below: another score, a map again
    assert np.isfinite(fitted.inspect(cloud.points).score)


def test_rows_that_are_no_points_are_left_out(fitted: Detector) -> None:
    cloud = bad_cloud(200)
    assert cloud.normals is not None
    where = np.flatnonzero(~np.insert(np.zeros(900, bool), np.arange(0, 900, 30), True))
    points, normals = np.full((930, 3), np.nan, np.float32), np.zeros((930, 3), np.float32)
    points[where], normals[where] = cloud.points, cloud.normals
    plain, result = fitted.inspect(cloud), fitted.inspect(Cloud(points, normals))
    assert result.score == plain.score
    np.testing.assert_array_equal(result.anomaly_map[where], plain.anomaly_map)
    assert not result.anomaly_map[np.isnan(points).any(1)].any()


def test_an_organised_cloud_is_a_grid(fitted: Detector) -> None:
    """Map and boxes are in its pixels, no point is (0, 0, 0), and the camera says where outside is."""
    x = defective_cloud(200)[0]
    points = (MM * x[:, :3] * [1, 1, -1] + [0, 0, 300]).astype(np.float32)  # seen from the origin along z
    grid = np.zeros((32, 30, 3), np.float32)
    grid[1:31] = points.reshape(30, 30, 3)
    result = fitted.inspect(grid)
    assert result.anomaly_map.shape == (32, 30)
    assert not result.anomaly_map[[0, 31]].any()
    assert result.score == pytest.approx(fitted.inspect(Cloud(points, x[:, 3:] * [1, 1, -1])).score, rel=1e-3)
    top = result.regions[0]
    x0, y0, x1, y1 = top.bbox
    region_points = grid[y0:y1, x0:x1].reshape(-1, 3)
    assert top.box is not None
    assert top.points == top.area_px
    assert (np.array(top.box[:3]) >= region_points.min(0) - 1e-3).all()


def test_a_mesh_is_seen_between_its_vertices_too() -> None:
    """A cube of 8 vertices: places on its faces are inspected, the map is by its vertices."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    part = part_of(Cloud(corners, faces=faces), 2000)
    assert len(part.points) == 2008
    distance = np.abs(part.points[8:] - 0.5).max(1)
    assert distance == pytest.approx(0.5)
    assert ((part.outside[8:] * (part.points[8:] - 0.5)).sum(1) > 0).all()
    kind = Clouds(CloudPlan.of([part]))
    assert kind.back(np.arange(2008, dtype=np.float32), part).tolist() == list(range(8))


@pytest.mark.parametrize(
    ("cloud", "message"),
    [
        (Cloud(np.zeros((10, 3)) + np.arange(10)[:, None]), "holds 10 points"),
        (Cloud(np.full((500, 3), np.nan)), "holds 0 points"),
        (Cloud(np.ones((500, 3))), "one place"),
        (Cloud(np.zeros((3, 3)), faces=np.array([[0, 1, 2]])), "no area"),
    ],
    ids=["ten points", "all NaN", "one place", "flat mesh"],
)
def test_what_shows_no_surface_is_refused(fitted: Detector, cloud: Cloud, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fitted.inspect(cloud)


def test_another_unit_and_a_coarser_scan_are_noticed(fitted: Detector) -> None:
    cloud = bad_cloud(200)
    with pytest.raises(DataError, match="is 0.09\\d* across, and the parts of this model are 9"):
        fitted.inspect(Cloud(cloud.points / 1000, cloud.normals))
    sparse = np.random.default_rng(0).permutation(900)[:100]
    assert cloud.normals is not None
    with pytest.raises(DataError, match="points lie .* apart"):
        Clouds(CloudPlan(99.0, 0.5)).prepare(part_of(Cloud(cloud.points[sparse], cloud.normals[sparse])))


def test_bad_files_name_themselves_and_the_run_goes_on(
    model: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.ply").write_bytes(b"")
    (tmp_path / "none.xyz").write_text("nan nan nan\n" * 200)
    (tmp_path / "ten.xyz").write_text("".join(f"{i} {i * i} 0\n" for i in range(10)))
    (tmp_path / "mesh.stl").write_bytes(b"\0" * 84)
    write_cloud(tmp_path / "good.ply", cloud_of(good_cloud(300)))
    assert run("inspect", model, tmp_path) == 1
    lines = {Path(line["image_path"]).name: line for line in map(json.loads, capsys.readouterr().out.splitlines())}
    assert lines.pop("good.ply")["error"] is None
    messages = {
        "empty.ply": "is empty", "none.xyz": "holds no point", "ten.xyz": "10 points", "mesh.stl": "without faces",
    }  # fmt: skip
    for name, line in lines.items():
        assert messages[name] in line["error"], line
        assert name in line["error"]
        assert line["regions"] == []


def test_commands(folder: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fit from a plain folder of clouds, inspect with pictures and maps, evaluate with a report."""
    good = folder / "train" / "good"
    out = tmp_path / "m.blemish"
    assert run("fit", good, "--method", "fpfh", "--out", out, "--false-alarm-rate", "0.25", "--held-out", "0.35") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["network_input"].startswith("points of parts 9")
    assert printed["parity"] is None
    assert (
        run("inspect", out, folder / "test" / "knob", "--maps", tmp_path / "maps", "--raw-maps", tmp_path / "raw") == 0
    )
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["pred_label"] for line in lines] == ["anomalous"] * 3
    assert np.load(tmp_path / "raw" / "00.npy").shape == (900,)
    picture = read_image(lines[0]["map"])
    assert picture.shape == (480, 964, 3)
    files = ("--json", tmp_path / "e.json", "--report", tmp_path / "r.html")
    assert run("evaluate", model, folder, *files) == 0
    overall = json.loads((tmp_path / "e.json").read_text())["overall"]
    assert overall["image"]["auroc"]["value"] == 1
    assert overall["pixel"]["auroc"]["value"] > 0.9
    assert overall["pixel"]["regions"] == 3  # one knob on each cloud, whatever the order of rows
    page = (tmp_path / "r.html").read_text()
    assert "Rings are areas" in page
    assert "pixels (width x height)" not in page
    assert page.count("data:image/jpeg") >= 5


def test_adapting_takes_new_clouds_in(fitted: Detector, tmp_path: Path) -> None:
    """What was strange is normal on the new station."""
    strange = bad_cloud(200)
    assert fitted.inspect(strange).verdict == "anomalous"
    for i in range(8):
        write_cloud(tmp_path / "new" / f"{i}.ply", bad_cloud(400 + i))
    adapted = Detector.from_model(fitted.model).adapt(tmp_path / "new")
    assert adapted.model.meta.adapted[-1].good_images == 8
    assert adapted.inspect(strange).score < 0.7 * fitted.inspect(strange).score
    assert adapted.inspect(strange).verdict == "good"


def test_layouts(folder: Path, tmp_path: Path) -> None:
    records = {r.id: r for r in layouts.index(folder, kind="cloud")}
    assert len(records) == 19
    assert records["train/good/00.ply"].split == "train"
    knob = records["test/knob/00.ply"]
    assert (knob.label, knob.defect, knob.mask) == (1, "knob", folder / "ground_truth" / "knob" / "00_labels.npy")
    assert records["test/knob/01.ply"].mask == folder / "test" / "knob" / "01.ply"  # its own field
    first, second = (Clouds.mask(records[f"test/knob/0{i}.ply"], (900,)) for i in (0, 1))
    np.testing.assert_array_equal(first, defective_cloud(200)[1])
    np.testing.assert_array_equal(second, defective_cloud(201)[1])
    with pytest.raises(DataError, match="labels"):
        Clouds.mask(knob, (800,))
    assert len(layouts.index(folder / "train", kind="cloud")) == 12
    with pytest.raises(DataError, match="'ground_truth'"):
        layouts.index(folder, "clouds")
    with pytest.raises(DataError, match="no images"):
        layouts.index(folder / "train", kind="image")
    with pytest.raises(DataError, match="no point clouds"):
        layouts.index(tmp_path, kind="cloud")


def test_a_tree_of_tiffs(tmp_path: Path) -> None:
    """MVTec 3D-AD's: coordinates in xyz, masks in gt; the colours beside them are another method's."""
    tifffile = pytest.importorskip("tifffile")
    from PIL import Image

    root = tmp_path / "bagel"
    for part in ("train/good", "validation/good", "test/good", "test/crack"):
        for sub in ("xyz", "rgb", "gt"):
            (root / part / sub).mkdir(parents=True)
        tifffile.imwrite(root / part / "xyz" / "000.tiff", np.ones((4, 5, 3), np.float32), photometric="rgb")
        Image.new("RGB", (5, 4)).save(root / part / "rgb" / "000.png")
        Image.fromarray(np.eye(4, 5, dtype=np.uint8) * 255).save(root / part / "gt" / "000.png")
    records = {r.id: r for r in layouts.index(tmp_path, kind="cloud")}
    assert {r.path.suffix for r in records.values()} == {".tiff"}
    assert {r.split for r in records.values()} == {"train", "held", "test"}
    crack = records["bagel/test/crack/xyz/000.tiff"]
    mask = Clouds.mask(crack, (4, 5))
    assert mask is not None
    assert mask.sum() == 4
    assert Clouds.places(crack, mask) is None
    assert {r.path.suffix for r in layouts.index(tmp_path)} == {".png"}


def test_defects_are_told_apart_by_neighbours_not_by_rows(tmp_path: Path) -> None:
    x = good_cloud(0)
    mixed = np.random.default_rng(0).permutation(900)
    x = x[mixed]
    marked = (np.hypot(x[:, 0] - 0.2, x[:, 1] - 0.2) < 0.1) | (np.hypot(x[:, 0] - 0.5, x[:, 1] - 0.5) < 0.1)
    write_cloud(tmp_path / "a.ply", cloud_of(x))
    places = Clouds.places(Record("a", tmp_path / "a.ply"), marked)
    assert places is not None
    assert len(places) == 2
    assert (places[0] ^ places[1] == marked).all()


def test_pictures_show_the_defect_and_leave_the_good_part_plain() -> None:
    cloud = bad_cloud(200)
    part = part_of(cloud)
    hot = np.where(defective_cloud(200)[1], 10.0, 0.0).astype(np.float32)
    scale = Scale(1.0, 10.0)

    def coloured(picture: NDArray[np.uint8]) -> float:
        return float((np.ptp(picture.astype(int), axis=2) > 60).mean())

    plain = cloud_heat.heat(part, 0 * hot, scale, side=200)
    assert coloured(plain) == 0
    assert 0.005 < coloured(cloud_heat.heat(part, hot, scale, side=200)) < 0.2
    assert 0.005 < coloured(cloud_heat.heat(part, hot, None, side=200, mask=hot > 0)) < 0.2
    assert coloured(cloud_heat.heat(part, hot, scale, side=200, behind=True)) < 0.005


def test_tensors_are_read_without_their_package(fitted: Detector) -> None:
    from safetensors.numpy import load

    expected, got = load(fitted.model.tensors), arrays(fitted.model.tensors)
    assert set(got) == set(expected) == {"voxel", "centre", "memory", "support", "radius"}
    for name, values in expected.items():
        assert got[name].dtype == values.dtype
        np.testing.assert_array_equal(got[name], values)
    with pytest.raises(ModelFileError):
        arrays(fitted.model.tensors[:40])


def test_a_plan_reads_back_and_refuses_nonsense(fitted: Detector) -> None:
    plan = fitted.model.meta.preprocess
    assert of(fitted.model.meta).preprocess.to_json() == plan
    for wrong in ({**plan, "diagonal": 0}, {**plan, "colour": 1}, {"diagonal": 1.0}):
        with pytest.raises((ConfigError, ModelFileError)):
            CloudPlan.from_json(wrong)


def test_what_images_alone_have_is_refused(folder: Path) -> None:
    for options in ({"views": ("flip_h",)}, {"roi": "mask.png"}, {"multi_class": True}):
        with pytest.raises(ConfigError):
            detector(**options).fit(folder)


def halved(cloud: Cloud, part: str) -> Cloud:
    """Less than half of a part, in one of the ways in which that comes about."""
    points, normals = cloud.points.copy(), cloud.normals
    gone = points[:, 0] > np.quantile(points[:, 0], 0.48)
    if part == "cropped":
        assert normals is not None
        return Cloud(points[~gone], normals[~gone])
    points[gone] = {"zeros": 0.0, "not a number": np.nan, "one value": (0.0, 0.0, -1000.0)}[part]
    return Cloud(points, normals)


@pytest.mark.parametrize("part", ["cropped", "zeros", "not a number", "one value"])
def test_half_a_part_is_never_good(fitted: Detector, part: str) -> None:
    """Every point of it has good neighbours: how much it shows of itself tells."""
    cloud = cloud_of(good_cloud(300))
    assert fitted.inspect(cloud).verdict == "good"
    with pytest.raises(OutOfRange, match=r"shows (4|5)\d% of the surface that good parts show") as caught:
        fitted.inspect(halved(cloud, part))
    assert "missing" in str(caught.value.hint)


def test_half_a_part_is_an_error_line_and_exit_1(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cloud(tmp_path / "a.ply", cloud_of(good_cloud(300)))
    write_cloud(tmp_path / "b.xyz", halved(cloud_of(good_cloud(301)), "zeros"))
    assert run("inspect", model, tmp_path) == 1
    good, half = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (good["pred_label"], good["error"]) == ("good", None)
    assert half["pred_label"] is None
    assert "of the surface" in half["error"]


def test_how_much_a_part_shows_depends_on_the_part_alone() -> None:
    """Not on how it lies, nor on its unit's origin, nor much on the density of the scan; two parts show twice that."""
    part = part_of(cloud_of(good_cloud(0)))
    plan = CloudPlan.of(part_of(cloud_of(good_cloud(k))) for k in range(4))
    assert plan.surface is not None
    whole = plan.shown(part)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    assert plan.shown(part_of(Cloud(part.points @ turn.T + 5e6))) == pytest.approx(whole, rel=0.1)
    for seed in range(20, 26):
        plan(part_of(cloud_of(good_cloud(seed))))
        plan(part_of(cloud_of(good_cloud(seed, (3600,)))))
        thin = np.random.default_rng(seed).random(900) < 0.4
        plan(part_of(Cloud(part.points[thin], part.outside[thin])))
        with pytest.raises(OutOfRange, match="shows"):  # as coarsely, and half of it
            plan(part_of(Cloud(part.points[thin & (part.points[:, 1] < 34)])))
    two = np.concatenate([part.points, part.points + [0, 0, 60]])
    with pytest.raises(OutOfRange, match=r"shows (19|20|21)\d% of the surface that good parts show at most"):
        plan(part_of(Cloud(two)))


def test_parts_that_vary_teach_the_range(tmp_path: Path) -> None:
    """All parts count, not the few that the typical size is told from."""
    for k in range(24):
        cloud = cloud_of(good_cloud(k))
        write_cloud(tmp_path / f"{k:02}.ply", halved(cloud, "cropped") if k == 5 else cloud)
    made = detector(calibration="none").fit(tmp_path)
    assert made.inspect(halved(cloud_of(good_cloud(40)), "cropped")).score > 0
    low, high = made.model.meta.preprocess["surface"]
    assert low < 0.6 * high


def test_older_models_of_clouds_open(fitted: Detector) -> None:
    plan = {k: v for k, v in fitted.model.meta.preprocess.items() if k != "surface"}
    old = Detector.from_model(replace(fitted.model, meta=replace(fitted.model.meta, preprocess=plan)))
    cloud = cloud_of(good_cloud(300))
    assert old.inspect(cloud).score == fitted.inspect(cloud).score
    assert json.loads(json.dumps(fitted.model.meta.preprocess))["surface"] is not None
    for wrong in ([0, 5], [5, 3], [1], "x"):
        with pytest.raises(ConfigError):
            CloudPlan.from_json({**plan, "surface": wrong})


def test_rows_that_repeat_one_place_are_no_points() -> None:
    cloud = cloud_of(good_cloud(0))
    assert cloud.normals is not None
    repeated = np.random.default_rng(0).random(900) < 0.05
    for value in ((0.0, 0.0, 0.0), (0.0, 0.0, -1000.0), (9999.0, 9999.0, 9999.0)):
        points = cloud.points.copy()
        points[repeated] = value
        assert part_of(Cloud(points, cloud.normals)).rows.tolist() == np.flatnonzero(~repeated).tolist()
    few_repeated = cloud.points.copy()
    few_repeated[5:9] = few_repeated[4]  # a scan that says a point twice, a part that touches the origin
    few_repeated[9] = 0
    assert len(part_of(Cloud(few_repeated, cloud.normals)).rows) == 900
    grid = np.stack([*np.meshgrid(np.arange(30.0), np.arange(30.0)), np.zeros((30, 30))], 2) + 1
    assert len(part_of(Cloud(grid.reshape(-1, 3))).rows) == 900, "rows and columns repeat numbers, not places"


def test_places_far_from_the_origin_keep_their_digits(fitted: Detector, tmp_path: Path) -> None:
    """Coordinates of a map's grid in metres, with details of a tenth of a millimetre."""
    cloud = bad_cloud(200)
    expected = fitted.inspect(cloud)
    far = Cloud(cloud.points.astype(np.float64) + [5e6, 3e5, 120], cloud.normals)
    for suffix in (".ply", ".pcd", ".xyz", ".obj", ".npy"):
        write_cloud(tmp_path / f"far{suffix}", far)
        assert np.abs(read_cloud(tmp_path / f"far{suffix}").points - far.points).max() < 1e-8
    for source in (far, tmp_path / "far.ply", tmp_path / "far.pcd"):
        result = fitted.inspect(source)
        assert result.score == pytest.approx(expected.score, rel=1e-3)
        first, top = expected.regions[0].box, result.regions[0].box
        assert first is not None
        assert top is not None
        np.testing.assert_allclose(np.array(top) - [5e6, 3e5, 120] * 2, first, atol=2e-5)
