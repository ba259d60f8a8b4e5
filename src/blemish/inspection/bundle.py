"""A model for programs that know nothing of Blemish: `blemish export`.

    graph.onnx            or graph.xml and graph.bin: uint8 image -> score and map (of several products votes too)
    pipeline.json         what comes before the graph and after it, in words and numbers, and the golden inputs
    roi.bin               with a region of interest: a byte for each pixel of the graph's input, 1 = inspected
    golden/               inputs as PNG and as PGM or PPM, and their maps as .npy
    inspect_picture.py    programs that give the same verdict, and with --check compare all golden inputs
    inspect_picture.cpp   and prepare.hpp
    InspectPicture.cs     and Prepare.cs, of ONNX Runtime alone

The programs are called so because a file `inspect.py` would stand in the way of Python's own module of that name.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from blemish.data import registry
from blemish.data.image import levels
from blemish.data.image.modality import Images
from blemish.data.image.preprocess import Preprocess
from blemish.data.image.roi import unpack_roi
from blemish.errors import ConfigError, ExportError
from blemish.inspection.conformal import Calibrator
from blemish.inspection.engines import OnnxRuntime, Outputs
from blemish.inspection.graph_parts import openvino_module
from blemish.inspection.inspector import Inspector
from blemish.inspection.meta import Meta
from blemish.inspection.modelfile import Model, write_folder
from blemish.inspection.open import open_model
from blemish.outputs import Place, check_folder
from blemish.types import AnomalyResult

SCHEMA = 1
SCORE_TOLERANCE = 0.01  # of the larger of |score| and |threshold|: a resize that rounds otherwise moves one by less
MAP_TOLERANCE = 0.01  # of the spread (largest - smallest) of all golden maps
MOST_GOLDEN = 4_000_000  # pixels of a picture of the user's that becomes a golden input
REGIONS = 50  # most regions of one picture
PROGRAMS: dict[str, tuple[str, ...]] = {
    "onnx": ("inspect_picture.py", "inspect_picture.cpp", "prepare.hpp", "InspectPicture.cs", "Prepare.cs"),
    "openvino": ("inspect_picture.py", "inspect_picture.cpp", "prepare.hpp"),
}
RUNTIMES = tuple(PROGRAMS)
_STORED = {"inspect_picture.py": "inspect_picture.py.txt"}  # no module of this package
_PARTS = re.compile(r"^[ \t]*(?://|#)@(\w+)\n(.*?)^[ \t]*(?://|#)@end\n", re.M | re.S)  # for one runtime alone

# What pipeline.json tells, or what bears on no verdict. Any other field that holds more than its empty default would
# be lost in the export without a word, and is an error.
_TOLD: dict[type, frozenset[str]] = {
    Preprocess: frozenset("size white_uint16 white_float roi black_uint16 black_float darkest max_pixels".split()),
    Meta: frozenset(
        "method preprocess precision kind graph config seed training backbone weights views inspected data device "
        "features_device software fit_seconds vote adapted chosen".split()
    ),
    Model: frozenset("meta calibrators tensors graph parity run categories".split()),
}


class Golden(NamedTuple):
    """A picture that programs are compared on."""

    name: str
    image: NDArray[Any]  # canonical, uint8 or uint16


def check_exportable(model: Model) -> Images:
    """The modality of a model that can be exported; ConfigError, with what to do instead, for another one."""
    kind = registry.of(model.meta)
    instead = "inspect it with Blemish itself: `blemish inspect`, or Detector in Python"
    if not isinstance(kind, Images):
        what = f"{kind.name}s are prepared by more than a short program can repeat"
        raise ConfigError(f"models of images are exported, and this is a model of {kind.name}s: {what}", hint=instead)
    if not model.meta.graph:
        raise ConfigError(f"'{model.meta.method}' is no graph, so there is nothing to export", hint=instead)
    if model.heads:
        each = "tile" if model.categories is None else "category"
        message = f"the model has {len(model.heads)} graphs, one for each {each}, and one graph is exported"
        other = "learn without tiles" if model.categories is None else "fit a model for each category"
        raise ConfigError(message, hint=f"{other}, or {instead}")
    for value in (kind.preprocess, model.meta, model):
        told = _TOLD[type(value)]
        for field in fields(value):
            empty = field.default if field.default_factory is MISSING else field.default_factory()
            if field.name not in told and getattr(value, field.name) != empty:
                raise ConfigError(f"the model uses '{field.name}', which an export does not describe", hint=instead)
    if not any(c for c, _ in _promises(model)):
        raise ConfigError("the model has no threshold", hint="`blemish calibrate MODEL GOOD` makes one, then export")
    return kind


def check_place(folder: str | Path, read: Sequence[Place]) -> None:
    """DataError unless a new or empty folder, apart from what is read, can be written there."""
    check_folder(folder, "--out", read=read, is_ours=lambda _: False)


def export(
    model: Model,
    folder: str | Path,
    runtime: str = "onnx",
    *,
    golden: Sequence[str | Path] = (),
    read: Sequence[Place] = (),
    int8: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a model for other programs; the folder appears whole or not at all.

    golden  pictures of the user's that become golden inputs beside the drawn ones: a good and a defective part
    read    what else must not lie in the folder
    int8    of a model whose graph is in int8: what `int8.in_int8` has measured. Runtimes compute such a graph by
            rules of their own, so what is expected is what this one gives

    Returns what was written. ConfigError for a model that cannot be exported, DataError for a place that is taken and
    for pictures that cannot be read, ExportError where the runtime gives other verdicts than Blemish.
    """
    kind = check_exportable(model)
    if runtime not in PROGRAMS:
        raise ConfigError(f"no runtime '{runtime}'", hint=f"one of {', '.join(PROGRAMS)}")
    check_place(folder, [*read, *golden])
    users = [_of_user(kind, Path(path)) for path in golden]
    contents = graph_files(model.graph, runtime)
    engine = ExportedGraph(contents, runtime) if int8 else open_model(model, precision="f32")
    inputs, expected = _judged(Inspector(model, engine, threads=1), drawn(kind.preprocess), users)
    checked = _compared(model, contents, runtime, inputs, expected)
    if kind.preprocess.roi is not None:
        contents["roi.bin"] = unpack_roi(kind.preprocess.roi, kind.preprocess.size).astype(np.uint8).tobytes()
    entries, maps = [], [result.anomaly_map for result in expected]
    spread = max(float(m.max()) for m in maps) - min(float(m.min()) for m in maps)
    for one, result in zip(inputs, expected, strict=True):
        entry, its_files = _golden(one, result, MAP_TOLERANCE * max(spread, 1e-6))
        entries.append(entry)
        contents |= its_files
    described = _pipeline(model, kind, runtime, contents, entries, int8)
    contents["pipeline.json"] = (json.dumps(described, indent=1, allow_nan=False) + "\n").encode()
    contents |= {name: program(name, runtime).encode() for name in PROGRAMS[runtime]}
    check_place(folder, [*read, *golden])  # learning an int8 graph takes its time
    write_folder(contents, Path(folder).resolve())
    size = sum(len(data) for name, data in contents.items() if name.startswith("graph."))
    about = {"out": str(folder), "runtime": runtime, "precision": described["precision"], "graph_bytes": size}
    return {**about, "golden": len(inputs), "compared_on": checked, **({"int8": dict(int8)} if int8 else {})}


def program(name: str, runtime: str) -> str:
    """The source of a program, with the parts of this runtime alone."""
    source = files("blemish.inspection").joinpath("programs", _STORED.get(name, name)).read_text(encoding="utf-8")
    return _PARTS.sub(lambda part: part[2] if part[1] == runtime else "", source)


def drawn(preprocess: Preprocess) -> list[Golden]:
    """Pictures that go every way through the preprocessing: as large as the input, shrunk, enlarged, and one side each;
    grey and colour, 8 and 16 bits."""
    height, width = preprocess.size
    generator = np.random.default_rng(0)

    def cells(shape: tuple[int, int], channels: int) -> NDArray[np.float64]:
        small = generator.random((7, 9, channels))
        return np.asarray(cv2.resize(small, shape[::-1], interpolation=cv2.INTER_CUBIC)).reshape(*shape, -1).clip(0, 1)

    shrunk, enlarged = (int(1.3 * height), int(1.6 * width)), (height // 2 + 1, width // 2 + 1)
    black, white = preprocess.levels.of("uint16")
    deep = np.rint(black + cells(enlarged, 1)[..., 0] * (white - black)).clip(0, 65535)
    return [
        Golden("blank", np.full((height, width), 127, np.uint8)),
        Golden("noise", generator.integers(0, 256, (*shrunk, 3), dtype=np.uint8)),
        Golden("deep", deep.astype(np.uint16)),
        Golden("mixed", np.rint(255 * cells((height // 2 + 1, int(1.4 * width)), 3)).astype(np.uint8)),
    ]


def _judged(
    line: Inspector, drawn: Sequence[Golden], users: Sequence[Golden]
) -> tuple[list[Golden], list[AnomalyResult]]:
    """The golden inputs, numbered, and their verdicts: without drawn ones whose score lies so near to its threshold
    that another program may rightly give the other label. ConfigError for such a picture of the user's."""
    kept: list[tuple[Golden, AnomalyResult]] = []
    for one in (*drawn, *users):
        result = line.inspect(one.image)
        if result.threshold is None or abs(result.score - result.threshold) > 2 * score_tolerance(result):
            kept.append((one._replace(name=f"{len(kept)}_{one.name}"), result))
        elif any(one is user for user in users):
            message = f"the golden input '{one.name}' has a score of {result.score:.6g}, at its threshold"
            raise ConfigError(message, hint="arithmetic may decide its label; take another picture")
    return [one for one, _ in kept], [result for _, result in kept]


def _of_user(kind: Images, path: Path) -> Golden:
    image = kind.read(path).pixels
    if image.dtype.kind == "f":
        raise ConfigError(f"{path}: real values cannot be kept as PNG", hint="golden inputs have 8 or 16 bits")
    if image.shape[0] * image.shape[1] > MOST_GOLDEN:
        message = f"{path}: {image.shape[1]} x {image.shape[0]} is more than {MOST_GOLDEN} pixels"
        raise ConfigError(message, hint="golden inputs are small: crop one")
    return Golden(re.sub(r"\W+", "_", path.stem, flags=re.ASCII).strip("_")[:40] or "picture", image)


def graph_files(graph: bytes, runtime: str) -> dict[str, bytes]:
    """The files of a graph by name, for a runtime."""
    if runtime == "onnx":
        return {"graph.onnx": graph}
    openvino = openvino_module()
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(openvino.Core().read_model(graph), f"{folder}/graph.xml", compress_to_fp16=False)
        return {name: (Path(folder) / name).read_bytes() for name in ("graph.xml", "graph.bin")}


def run_of(contents: Mapping[str, bytes], runtime: str) -> Callable[[NDArray[np.uint8]], Outputs]:
    """The exported graph as the runtime runs it, in one thread and float32."""
    if runtime == "onnx":
        return OnnxRuntime(contents["graph.onnx"])
    core = openvino_module().Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("graph.xml", "graph.bin"):
            (Path(folder) / name).write_bytes(contents[name])
        request = core.compile_model(f"{folder}/graph.xml", "CPU", options).create_infer_request()

    def run(images: NDArray[np.uint8]) -> Outputs:
        request.infer([images])
        return tuple(request.get_output_tensor(i).data.copy() for i in range(len(request.model_outputs)))

    return run


class ExportedGraph:
    """An exported graph as its runtime runs it: an `Engine`."""

    name: str
    precision: Any = "f32"

    def __init__(self, contents: Mapping[str, bytes], runtime: str) -> None:
        self.name, self._run = runtime, run_of(contents, runtime)

    def __call__(self, images: NDArray[Any]) -> Outputs:
        return self._run(images)


def _compared(
    model: Model,
    contents: Mapping[str, bytes],
    runtime: str,
    inputs: Sequence[Golden],
    expected: Sequence[AnomalyResult],
) -> str | None:
    """Name and version of the runtime that gave the expected verdicts; None where it is not installed.

    ExportError where it gives others.
    """
    package = "onnxruntime" if runtime == "onnx" else "openvino"
    if find_spec(package) is None:
        return None
    line = Inspector(model, ExportedGraph(contents, runtime), threads=1)
    for one, wanted in zip(inputs, expected, strict=True):
        got = line.inspect(one.image)
        far = abs(got.score - wanted.score) > score_tolerance(wanted)
        if far or got.verdict != wanted.verdict or got.category != wanted.category:
            raise ExportError(
                f"{package} judges the golden input '{one.name}' otherwise: {got.score:.6g} ({got.verdict}), and "
                f"{wanted.score:.6g} ({wanted.verdict}) is expected"
            )
    return f"{package} {version(package)}"


def score_tolerance(result: AnomalyResult) -> float:
    """By how much another program's score may differ."""
    return SCORE_TOLERANCE * max(abs(result.score), abs(result.threshold or 0.0))


def _golden(one: Golden, result: AnomalyResult, map_tolerance: float) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The entry of a golden input in pipeline.json, and its files."""
    turned = one.image if one.image.ndim == 2 else one.image[..., ::-1]
    encoded, data = cv2.imencode(".png", turned)
    if not encoded:
        raise ExportError(f"the golden input '{one.name}' cannot be encoded as PNG")
    kind, suffix = ("P5", "pgm") if one.image.ndim == 2 else ("P6", "ppm")
    head = f"{kind}\n{one.image.shape[1]} {one.image.shape[0]}\n{np.iinfo(one.image.dtype).max}\n".encode()
    array = BytesIO()
    np.save(array, result.anomaly_map)
    named = {"png": data.tobytes(), "pnm": head + one.image.astype(one.image.dtype.newbyteorder(">")).tobytes()}
    paths = {"png": f"golden/{one.name}.png", "pnm": f"golden/{one.name}.{suffix}", "map": f"golden/{one.name}.npy"}
    entry = {
        **paths,
        "score": result.score,
        "score_tolerance": score_tolerance(result),
        "label": result.verdict,
        "map_tolerance": map_tolerance,
        "p_value": result.p_value,
        "category": result.category,
        "regions": result.to_json()["regions"],
    }
    return entry, {paths["png"]: named["png"], paths["pnm"]: named["pnm"], paths["map"]: array.getvalue()}


def _promises(model: Model) -> list[tuple[Calibrator | None, Calibrator | None]]:
    """For each category, or for the one product: what its scores, and what its strangeness is compared with."""
    if model.categories is None:
        return [(model.calibrators.get("f32"), None)]
    known = model.categories.known.get("f32")
    if known is None:
        return [(None, None)] * len(model.categories.names)
    return list(zip(known.scores, known.strangeness, strict=True))


def _decisions(model: Model) -> list[dict[str, Any]]:
    names = model.categories.names if model.categories else (None,)
    out = []
    for name, (scores, strangeness) in zip(names, _promises(model), strict=True):
        out.append(
            {
                "category": name,
                "threshold": scores and scores.threshold,
                "map_threshold": scores and scores.map_threshold,
                "unknown_above": strangeness and strangeness.wide_threshold,
                "promise": scores and scores.promise,
                "p_value": scores and {"scores": list(scores.scores), "weights": list(_weights(scores))},
            }
        )
    return out


def _weights(calibrator: Calibrator) -> Sequence[float]:
    """What each held-out score counts: 1, or shared by the images of its unit."""
    if not (calibrator.per_unit and calibrator.units):
        return [1.0] * calibrator.n
    sizes = {unit: calibrator.units.count(unit) for unit in set(calibrator.units)}
    return [1 / sizes[unit] for unit in calibrator.units]


def _pipeline(
    model: Model,
    kind: Images,
    runtime: str,
    contents: Mapping[str, bytes],
    golden: Sequence[Mapping[str, Any]],
    int8: Mapping[str, Any] | None,
) -> dict[str, Any]:
    plan = kind.preprocess
    height, width = plan.size
    parts = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items() if "golden" not in name}
    return {
        "schema": SCHEMA,
        "made_by": f"blemish {model.meta.software.get('blemish', '')}".strip(),
        "model": {"method": model.meta.method, "backbone": model.meta.backbone.name},
        "runtime": runtime,
        "precision": "int8" if int8 else "f32",
        "sha256": parts,
        "input": {
            "name": "image",
            "height": height,
            "width": width,
            "type": "uint8",
            "layout": "batch, height, width, 3 channels in the order red, green, blue; normalising is in the graph",
        },
        "levels": {
            "uint16_black": plan.black_uint16,
            "uint16_white": plan.white_uint16,
            "float_black": plan.black_float,
            "float_white": plan.white_float,
            "darkest": plan.darkest,
            "dark_share": levels.DARK,
            "outside_share": levels.OUTSIDE,
        },
        "roi": "roi.bin" if plan.roi is not None else None,
        "max_pixels": plan.max_pixels,
        "before": list(_BEFORE),
        "outputs": {
            "score": "float32 (batch,): larger is more anomalous",
            "anomaly_map": "float32 (batch, height, width): larger is more anomalous",
            **({"votes": "float32 (batch, decisions)", "strangeness": "float32 (batch,)"} if model.categories else {}),
        },
        "decisions": _decisions(model),
        "after": list(_AFTER),
        "numbers": list(_NUMBERS),
        **({"int8": dict(int8)} if int8 else {}),
        "golden": list(golden),
    }


_BEFORE = (
    "Decode. Turn the picture as its EXIF orientation says. Palettes become RGB; colour is in the order red, green, "
    "blue; grey stays one channel until the end. Where there is alpha, each channel is multiplied by alpha / white of "
    "the type and rounded. A file with several pages is refused.",
    "Check the range (uint16 and float), black and white being those of the type under 'levels' and span their "
    "difference: refuse the picture where its smallest value is below black - span, its largest above white + span, or "
    "a share of more than outside_share of its values lies below black - 0.02 span or above white + 0.02 span. Check "
    "the light (all types; uint8 has black 0 and white 255): refuse the picture where 255 (largest - black) / span, "
    "limited to 0 to 255, is below dark_share x darkest. A picture that is refused has no verdict, and is not good.",
    "Bring it to 8 bits: uint8 stays; else round(255 (value - black) / span), limited to 0 to 255, halves to even.",
    "Resize to height x width: first the axes that shrink, both at once, each output pixel the mean of the source "
    "rectangle that it covers, source pixels at its rim weighted by the part that is covered, rounded to integers; "
    "then the axes that grow, linear between the centres of pixels (source coordinate (i + 0.5) n / to - 0.5, limited "
    "to 0 to n - 1), rounded to integers. In OpenCV these are INTER_AREA and INTER_LINEAR.",
    "Grey is repeated for the three channels. Where 'roi' names a file (height x width bytes, row by row), pixels "
    "whose byte is 0 become 127 in all channels.",
)
_AFTER = (
    "Which entry of 'decisions' applies: where the graph gives votes, the one with the most votes (the first of equal "
    "ones), else the only one.",
    "The label is 'anomalous' where score > threshold; else 'unknown' where strangeness > unknown_above; else 'good'. "
    "null = not known: without a threshold nothing is good or anomalous, and the label is null unless it is unknown.",
    "p-value = min(1, (1 + sum of the weights of those scores that are >= the score) / (1 + sum of all weights)).",
    "The map outside of the region of interest is set to the map's smallest value; then it is resized linearly to the "
    "size of the decoded picture, between the centres of pixels as above. Its values are never rescaled.",
    "Regions: areas of the resized map above map_threshold, 8-connected (corners touch), at most 50, those with the "
    "highest peak first. bbox is x0, y0, x1, y1 in pixels of the picture, x1 and y1 exclusive; area_px counts pixels, "
    "peak is the largest value inside, score their mean.",
)
_NUMBERS = (
    "Thresholds are those of float32 arithmetic (an int8 graph has its own). Other formats, such as the bf16 or fp16 "
    "that runtimes choose on some processors and on graphics cards, move scores: set float32, or compare all golden "
    "inputs first. In OpenVINO that is INFERENCE_PRECISION_HINT = f32. An int8 graph is computed otherwise by other "
    "runtimes, and by processors without 8-bit products: what was measured, and where, is under 'int8'.",
    "Libraries decode JPEG and round a resize differently, by one grey level. The score of a golden input may differ "
    "by score_tolerance and a map's values by map_tolerance; labels are equal.",
)
