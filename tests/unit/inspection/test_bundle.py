"""What `blemish export` writes: programs without Blemish give the same verdicts, and what cannot be told is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from blemish.data.image.preprocess import Preprocess
from blemish.detector import Detector
from blemish.errors import BlemishError, ConfigError, DataError, ExportError
from blemish.inspection import bundle, int8, modelfile
from blemish.inspection.meta import Meta
from blemish.inspection.modelfile import Model
from blemish.inspection.open import open_model
from blemish.types import Record
from tests.fakes import defective_image, good_image, write_images
from tests.tiny import ROOT, fit_tiny

RUNS = [name for name, package in (("onnx", "onnxruntime"), ("openvino", "openvino")) if find_spec(package)]
PROGRAMS = ROOT / "tests" / "programs"
needs_onnxruntime = pytest.mark.skipif(find_spec("onnxruntime") is None, reason="onnxruntime is not installed")


@pytest.fixture(scope="module", params=["padim", "patchcore"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return fit_tiny(tmp_path_factory.mktemp("fit"), method=request.param, precision="f32")


@pytest.fixture(scope="module")
def padim(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """With a region of interest."""
    folder = tmp_path_factory.mktemp("roi")
    mask = np.zeros((48, 64), np.uint8)
    mask[6:40, 4:60] = 255
    cv2.imwrite(str(folder / "roi.png"), mask)
    return fit_tiny(folder, precision="f32", roi=str(folder / "roi.png"))


def picture(folder: Path, name: str, image: np.ndarray[Any, Any]) -> Path:
    path = folder / name
    assert cv2.imwrite(str(path), image if image.ndim == 2 else image[..., ::-1])
    return path


def ran(command: list[object], cwd: Path, env: Mapping[str, str] | None = None) -> tuple[int, list[dict[str, Any]]]:
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=300
    )
    assert done.stderr == "" or done.returncode, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def plan(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "pipeline.json").read_text(encoding="utf-8"))
    return value


def change(folder: Path, key: str, value: object) -> None:
    """Another expected value of the first golden input."""
    described = plan(folder)
    described["golden"][0][key] = value
    (folder / "pipeline.json").write_text(json.dumps(described, indent=1))


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNS)
def test_the_python_program_gives_the_same_verdicts(model: Model, tmp_path: Path, runtime: str) -> None:
    detector = Detector.from_model(model)
    good = picture(tmp_path, "good.png", good_image(3))
    about = detector.export(tmp_path / "out", runtime, golden=[good])
    program = tmp_path / "out" / "inspect_picture.py"
    assert about["golden"] == len(plan(tmp_path / "out")["golden"]) >= 4
    assert "import blemish" not in program.read_text()
    code, rows = ran([sys.executable, program, "--check"], tmp_path)
    assert (code, {row["pred_label"] for row in rows}) == (0, {"good", "anomalous"})

    deep = (good_image(902).astype(np.uint16) * 257)[..., 0]
    others = [
        good,
        picture(tmp_path, "bad.png", defective_image(901, (100, 70))[0]),
        picture(tmp_path, "grey.png", good_image(903, (40, 200))[..., 0]),
        picture(tmp_path, "deep.tif", deep),
    ]
    code, rows = ran([sys.executable, program, *others], tmp_path)
    results = [detector.inspect(path) for path in others]
    assert code == 0
    assert [row["pred_label"] for row in rows] == [result.verdict for result in results]
    assert [row["pred_score"] for row in rows] == pytest.approx([result.score for result in results], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["score", "label", "map"])
@needs_onnxruntime
def test_a_check_that_differs_fails(padim: Model, tmp_path: Path, key: str) -> None:
    bundle.export(padim, tmp_path / "out")
    wrong = {"score": 1.5 * plan(tmp_path / "out")["golden"][0]["score"], "label": "good", "map": "golden/wrong.npy"}
    expected = np.load(tmp_path / "out" / plan(tmp_path / "out")["golden"][0]["map"])
    np.save(tmp_path / "out" / "golden" / "wrong.npy", expected + 0.1 * np.ptp(expected) + 1)
    program = [sys.executable, tmp_path / "out" / "inspect_picture.py", "--check"]
    assert ran(program, tmp_path)[0] == 0
    change(tmp_path / "out", key, wrong[key])
    assert ran(program, tmp_path)[0] == 1


@pytest.mark.slow
@needs_onnxruntime
def test_what_is_no_part_is_an_error_and_no_verdict(padim: Model, tmp_path: Path) -> None:
    """Far too dark, another scale, alpha, no picture: as Blemish refuses them, or more."""
    bundle.export(padim, tmp_path / "out")
    half = np.full((48, 64), 20_000, np.uint16)
    half[:, :32] = 65535
    wrong = [
        picture(tmp_path, "dark.png", np.full((48, 64, 3), 3, np.uint8)),
        picture(tmp_path, "scale.tif", good_image(1)[..., 0].astype(np.float32)),
        tmp_path / "text.png",
        tmp_path / "missing.png",
    ]
    wrong[2].write_text("no picture")
    cv2.imwrite(str(tmp_path / "alpha.png"), np.full((48, 64, 4), 120, np.uint8))
    for path in (*wrong, tmp_path / "alpha.png"):
        code, rows = ran([sys.executable, tmp_path / "out" / "inspect_picture.py", path], tmp_path)
        assert code == 1
        assert [set(row) for row in rows] == [{"error"}], path
    for path in wrong:
        with pytest.raises(DataError):
            Detector.from_model(padim).inspect(path)


def compiled(folder: Path, runtime: str, to: Path) -> Path:
    """The C++ program; skips, saying what is missing."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler (g++)")
    libraries = to / "lib"
    libraries.mkdir()
    if runtime == "openvino":
        place = Path(str(find_spec("openvino").origin)).parent  # type: ignore[union-attr]
        include, found, name = place / "include", sorted((place / "libs").glob("libopenvino.so*")), "openvino"
    else:
        places = [Path(p) for p in (os.environ.get("ONNXRUNTIME_DIR"), "/opt/onnxruntime", "/usr/local", "/usr") if p]
        inside = [p / "include" / more for p in places for more in ("", "onnxruntime", "onnxruntime/core/session")]
        include = next((p for p in inside if (p / "onnxruntime_cxx_api.h").is_file()), Path())
        found = [one for p in places for one in sorted((p / "lib").glob("libonnxruntime.so*"))]
        name = "onnxruntime"
    if not include.name or not include.is_dir() or not found:
        pytest.skip(f"no headers or library of {name} for C++ (ONNXRUNTIME_DIR names a folder with include and lib)")
    for link in (f"lib{name}.so", f"lib{name}.so.1"):  # a package may hold it by its full version alone
        (libraries / link).symlink_to(found[0])
    command = [compiler, "-std=c++17", "-O1", "-Wall", "inspect_picture.cpp", "-I", include, "-L", libraries]
    rest = [f"-l{name}", f"-Wl,-rpath,{found[0].parent},-rpath,{libraries}", "-o", to / "inspect_picture"]
    done = subprocess.run(list(map(str, [*command, *rest])), cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return to / "inspect_picture"


def as_netpbm(path: Path, image: np.ndarray[Any, Any]) -> Path:
    kind, most = ("P5" if image.ndim == 2 else "P6"), np.iinfo(image.dtype).max
    head = f"{kind}\n{image.shape[1]} {image.shape[0]}\n{most}\n".encode()
    path.write_bytes(head + image.astype(image.dtype.newbyteorder(">")).tobytes())
    return path


def same_verdicts(program: list[object], folder: Path, model: Model, work: Path, env: dict[str, str]) -> None:
    """A compiled program on golden inputs, on pictures beside them, and on what it has to refuse."""
    assert ran([*program, "--check"], folder, env)[0] == 0
    others = [
        as_netpbm(work / "good.ppm", good_image(910, (96, 128))),  # twice as large: halves are rounded up
        as_netpbm(work / "bad.ppm", defective_image(911, (50, 150))[0]),
        as_netpbm(work / "grey.pgm", good_image(912, (30, 40))[..., 0]),
        as_netpbm(work / "deep.pgm", (good_image(913, (70, 90)).astype(np.uint16) * 257)[..., 1]),
    ]
    code, rows = ran([*program, *others], folder, env)
    results = [Detector.from_model(model).inspect(path) for path in others]
    assert code == 0
    assert [row["pred_label"] for row in rows] == [result.verdict for result in results]
    tolerance = [bundle.score_tolerance(result) for result in results]
    away = [abs(row["pred_score"] - result.score) for row, result in zip(rows, results, strict=True)]
    assert all(a <= t for a, t in zip(away, tolerance, strict=True)), (away, tolerance)
    dark = as_netpbm(work / "dark.pgm", np.full((48, 64), 3, np.uint8))
    cut = as_netpbm(work / "cut.pgm", good_image(914)[..., 0])
    cut.write_bytes(cut.read_bytes()[:-5])
    for path in (dark, cut, work / "missing.pgm"):
        assert ran([*program, path], folder, env)[0] not in (0, None), path
    change(folder, "score", 2 * plan(folder)["golden"][0]["score"])
    assert ran([*program, "--check"], folder, env)[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNS)
def test_the_cpp_program_gives_the_same_verdicts(padim: Model, tmp_path: Path, runtime: str) -> None:
    bundle.export(padim, tmp_path / "out", runtime)
    (tmp_path / "work").mkdir()
    program = compiled(tmp_path / "out", runtime, tmp_path / "work")
    same_verdicts([program], tmp_path / "out", padim, tmp_path / "work", {})


@pytest.mark.slow
@needs_onnxruntime
def test_the_csharp_program_gives_the_same_verdicts(padim: Model, tmp_path: Path) -> None:
    """With a stand-in for ONNX Runtime's package, whose graph runs in Python: see `onnxruntime_stub.cs`."""
    compiler, runner = shutil.which("mcs"), shutil.which("mono")
    if compiler is None or runner is None:
        pytest.skip("no C# compiler (mcs and mono)")
    bundle.export(padim, tmp_path / "out")
    program = tmp_path / "inspect.exe"
    sources = [tmp_path / "out" / "InspectPicture.cs", tmp_path / "out" / "Prepare.cs"]
    command = [compiler, f"-out:{program}", *sources, PROGRAMS / "onnxruntime_stub.cs"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=300)
    env = {"STUB_PYTHON": sys.executable, "STUB_SESSION": str(PROGRAMS / "stub_session.py")}
    same_verdicts([runner, program], tmp_path / "out", padim, tmp_path, env)


@pytest.mark.parametrize("runtime", bundle.RUNTIMES)
@pytest.mark.parametrize("name", bundle.PROGRAMS["onnx"])
def test_programs_are_short(name: str, runtime: str) -> None:
    if name not in bundle.PROGRAMS[runtime]:
        pytest.skip("not of this runtime")
    text = bundle.program(name, runtime)
    assert len(text.splitlines()) < 60
    assert max(map(len, text.splitlines())) <= 120
    assert "@" not in text
    others = {"onnx": "openvino", "openvino": "onnxruntime"}
    assert others[runtime] not in text.lower()


@pytest.mark.slow
def test_the_description_says_what_the_model_does(padim: Model, tmp_path: Path) -> None:
    bundle.export(padim, tmp_path / "out")
    described = plan(tmp_path / "out")
    decision, calibrator = described["decisions"][0], padim.calibrators["f32"]
    assert (decision["threshold"], decision["map_threshold"]) == (calibrator.threshold, calibrator.map_threshold)
    assert (described["input"]["height"], described["input"]["width"]) == (48, 64)
    scores, weights = np.array(decision["p_value"]["scores"]), np.array(decision["p_value"]["weights"])
    for golden in described["golden"]:
        told = (1 + weights[scores >= golden["score"]].sum()) / (1 + weights.sum())
        assert golden["p_value"] == pytest.approx(min(told, 1))
    assert np.fromfile(tmp_path / "out" / "roi.bin", np.uint8).sum() == 34 * 56
    image = cv2.imread(str(tmp_path / "out" / described["golden"][1]["png"]))
    assert np.load(tmp_path / "out" / described["golden"][1]["map"]).shape == image.shape[:2]
    regions = Detector.from_model(padim).inspect(image[..., ::-1]).to_json()["regions"]
    assert [r["bbox"] for r in described["golden"][1]["regions"]] == [r["bbox"] for r in regions]


def test_nothing_is_overwritten(padim: Model, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    modelfile.save(padim, tmp_path / "model")
    for place in ("mine", "file", "model", "model/inside"):
        with pytest.raises(DataError):
            bundle.export(padim, tmp_path / place, read=[tmp_path / "model"])
    assert (tmp_path / "mine" / "notes.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "model" / "inside").exists()


@dataclass(frozen=True)
class Farther(Meta):
    """A description of a later version."""

    located: str | None = None


def test_what_cannot_be_told_is_refused(padim: Model, tmp_path: Path) -> None:
    def refused(model: Model, *words: str, error: type[BlemishError] = ConfigError) -> None:
        with pytest.raises(error) as caught:
            bundle.export(model, tmp_path / "out")
        assert all(word in str(caught.value) for word in words)
        assert caught.value.hint
        assert not (tmp_path / "out").exists()

    refused(replace(padim, calibrators={}), "threshold")
    refused(replace(padim, heads={"0000": b""}), "one for each tile")
    refused(replace(padim, meta=replace(padim.meta, graph=False)), "no graph")
    later = Farther(**{**vars(padim.meta), "located": "by its outline"})
    bundle._TOLD[Farther] = bundle._TOLD[Meta]
    refused(replace(padim, meta=later), "'located'")
    del bundle._TOLD[Farther]
    with pytest.raises(ConfigError, match="no runtime"):
        bundle.export(padim, tmp_path / "out", "tensorrt")


@pytest.mark.parametrize(("of", "untold"), [(Preprocess, set()), (Meta, set()), (Model, {"heads"})])
def test_every_field_is_told_or_refused(of: Any, untold: set[str]) -> None:
    """A new field: tell it in pipeline.json and the programs, or models that use it are refused."""
    from dataclasses import fields

    assert bundle._TOLD[of] <= {field.name for field in fields(of)}
    assert untold <= {field.name for field in fields(of)} - bundle._TOLD[of]


@pytest.mark.slow
def test_a_golden_input_at_the_threshold_is_refused(padim: Model, tmp_path: Path) -> None:
    path = picture(tmp_path, "part.png", good_image(920))
    score = Detector.from_model(padim).inspect(path).score
    calibrator = padim.calibrators["f32"]
    at = replace(calibrator, scores=tuple([score] * calibrator.n))
    with pytest.raises(ConfigError, match="threshold"):
        bundle.export(replace(padim, calibrators={"f32": at}), tmp_path / "out", golden=[path])


@pytest.mark.slow
@needs_onnxruntime
def test_a_runtime_that_judges_otherwise_is_no_export(
    padim: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = bundle.run_of

    def wrong(contents: Any, runtime: str) -> Any:
        run = right(contents, runtime)
        return lambda images: (run(images)[0] * 1.1, *run(images)[1:])

    monkeypatch.setattr(bundle, "run_of", wrong)
    with pytest.raises(ExportError, match="judges the golden input"):
        bundle.export(padim, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@needs_onnxruntime
def test_of_several_products_the_votes_decide(tmp_path: Path) -> None:
    """One graph with a router: category, threshold and the alarm for unknown products, in every language."""
    records = []
    for group, turned in (("rows", False), ("columns", True)):
        for number in range(24):
            image = good_image(number + 100 * turned, (48, 48))
            image = image.transpose(1, 0, 2).copy() if turned else image
            path = picture(tmp_path, f"{group}{number}.png", image)
            records.append(Record(id=path.name, path=path, group=group))
    model = fit_tiny(tmp_path, records, precision="f32", multi_class=True, image_size="48sq")
    assert model.categories is not None
    bundle.export(model, tmp_path / "out", golden=[tmp_path / "rows0.png", tmp_path / "columns0.png"])
    described = plan(tmp_path / "out")
    assert [d["category"] for d in described["decisions"]] == list(model.categories.names)
    assert {"rows", "columns"} <= {golden["category"] for golden in described["golden"]}
    assert ran([sys.executable, tmp_path / "out" / "inspect_picture.py", "--check"], tmp_path)[0] == 0
    (tmp_path / "work").mkdir()
    program = compiled(tmp_path / "out", "onnx", tmp_path / "work")
    same_verdicts([program], tmp_path / "out", model, tmp_path / "work", {})


@pytest.mark.slow
@needs_onnxruntime
@pytest.mark.parametrize("runtime", bundle.RUNTIMES)
def test_int8_is_written_where_it_passes(
    padim: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    """The gate's limits and the time are set here: whether int8 is faster is a matter of the processor."""
    fresh = _fresh(tmp_path / "fresh", 40)
    monkeypatch.setattr(int8, "timed", lambda runs, _: {"f32": 2.0, "int8": 1.0})
    for name, limit in {"SPOILED": 9.0, "RANK": -1.0, "EQUAL": 0.0, "MISSED": 1.0}.items():
        monkeypatch.setattr(int8, name, limit)
    about = Detector.from_model(padim).export(tmp_path / "out", runtime, int8=fresh)
    described = plan(tmp_path / "out")
    assert described["precision"] == about["precision"] == "int8"
    assert about["int8"]["time_ratio"] == 0.5
    assert about["int8"]["layers"] > 0
    assert described["decisions"][0]["threshold"] != padim.calibrators["f32"].threshold
    if runtime == "onnx":
        assert b"QuantizeLinear" in (tmp_path / "out" / "graph.onnx").read_bytes()
    assert ran([sys.executable, tmp_path / "out" / "inspect_picture.py", "--check"], tmp_path)[0] == 0


def _fresh(folder: Path, count: int) -> Path:
    """Good images that no model has seen."""
    folder.mkdir()
    for number in range(count):
        picture(folder, f"{number:03}.png", good_image(5000 + number))
    return folder


FIGURES: dict[str, Any] = {
    "rank": 0.99,
    "equal_verdicts": 0.99,
    "found": {"f32": 0.5, "int8": 0.5},
    "time_ratio": 0.7,
}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("rank", 0.9, "rank correlation"),
        ("equal_verdicts", 0.9, "verdicts are equal"),
        ("found", {"f32": 0.5, "int8": 0.4}, "synthetic defects are found"),
        ("time_ratio", 1.01, "of the time"),
    ],
)
def test_the_gate_names_what_does_not_pass(key: str, value: Any, words: str) -> None:
    int8.check(FIGURES)
    with pytest.raises(ExportError, match=words) as caught:
        int8.check({**FIGURES, key: value})
    assert "float32" in str(caught.value.hint)


@pytest.mark.slow
@needs_onnxruntime
def test_int8_that_is_slower_leaves_nothing(padim: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = _fresh(tmp_path / "fresh", 40)
    monkeypatch.setattr(int8, "timed", lambda runs, _: {"f32": 1.0, "int8": 1.5})
    with pytest.raises(ExportError, match="1.50 of the time"):
        Detector.from_model(padim).export(tmp_path / "out", int8=fresh)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fresh"]


@pytest.mark.slow
@needs_onnxruntime
def test_int8_needs_good_images_of_its_own(padim: Model, tmp_path: Path) -> None:
    learned = write_images(tmp_path / "learned", 20)
    detector = Detector.from_model(padim)
    with pytest.raises(DataError, match="learned from"):
        detector.export(tmp_path / "out", int8=[record.path for record in learned])
    with pytest.raises(BlemishError, match="too few"):
        detector.export(tmp_path / "out", int8=_fresh(tmp_path / "fresh", 4))


def test_a_layer_that_spoils_stays_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of seven layers two spoil: they are found, and the graph is made once more without them."""

    class Quantiser:
        layers = list("abcdefg")

        def __call__(self, layers: Any) -> bytes:
            return "".join(layers).encode()

    class Graph:
        def __init__(self, contents: bytes, runtime: str) -> None:
            self.moved = 5.0 * len(set(contents.decode()) & set("bf"))

        def __call__(self, images: Any) -> Any:
            return (np.array([float(images.mean()) + self.moved]),)

    monkeypatch.setattr(int8, "ExportedGraph", Graph)
    monkeypatch.setattr(int8, "graph_files", lambda graph, _: graph)
    pictures = [np.full((8, 8, 3), 10 * i, np.uint8) for i in range(1, 4)]
    kept, graph = int8._kept(Quantiser(), pictures, b"", "onnx")  # type: ignore[arg-type]
    assert (kept, graph) == (list("acdeg"), b"acdeg")


def test_the_graph_of_a_model_is_what_is_exported(padim: Model) -> None:
    assert bundle.graph_files(padim.graph, "onnx") == {"graph.onnx": padim.graph}
    image = np.random.default_rng(0).integers(0, 256, (1, 48, 64, 3), dtype=np.uint8)
    wanted = open_model(padim, precision="f32")(image)
    got = bundle.ExportedGraph(bundle.graph_files(padim.graph, "openvino"), "openvino")(image)
    assert np.allclose(got[0], wanted[0], rtol=1e-4)
