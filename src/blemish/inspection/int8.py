"""A graph in int8, only where it is shown to judge as the float32 graph does and to be faster.

Weights and activations of the frozen network become 8-bit integers (post-training quantisation; QuantizeLinear and
DequantizeLinear in the graph, which both runtimes compute in int8); the method behind the features stays float32.
Ranges of activations are measured on some good images, all else on others, which the ranges know nothing of:

layers      a layer that spoils scores stays float32: found by halving the set of layers as long as it spoils
thresholds  made anew from the scores of the int8 graph
gate        rank correlation of scores and equality of verdicts, on good images and on the same with synthetic defects;
            time of both graphs, one after the other on each image. What does not pass is not written.

Runtimes compute an int8 graph by their own rules, so everything is measured on the runtime that is exported for.
"""

from __future__ import annotations

import logging
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.data.synthesis.graded import Graded
from blemish.errors import CalibrationError, ConfigError, EngineError, ExportError
from blemish.inspection.bundle import RUNTIMES, ExportedGraph, check_exportable, graph_files
from blemish.inspection.calibrate import Deployed, calibrators, compared, good_scores
from blemish.inspection.conformal import images_needed
from blemish.inspection.graph_parts import HEAD
from blemish.inspection.modelfile import Model
from blemish.types import Record, Track, no_track

RANGES = 32  # images that ranges of activations are measured on, at most
PROBED = 8  # of these, that layers are compared on, each with a synthetic defect too
SPOILED = 0.05  # of the spread of their scores, that a set of layers may move one of them by
RANK = 0.98  # least rank correlation
EQUAL = 0.95  # least share of equal verdicts
MISSED = 0.02  # share of synthetic defects that the int8 graph may find less
FASTER = 0.95  # largest ratio of times, int8 to float32
ROUNDS = 40  # images that both graphs are timed on
LAYERS = ("Conv", "Gemm", "MatMul", "Add")

Picture = NDArray[np.uint8]
Run = Callable[[Picture], float]


def in_int8(
    model: Model, records: Sequence[Record], runtime: str, track: Track = no_track
) -> tuple[Model, dict[str, Any]]:
    """The model with an int8 graph and thresholds for it, and what was measured, for `bundle.export`.

    records  good images that the model has not learned from; some for ranges, the others for thresholds and the gate

    ConfigError for a model of several products, CalibrationError where the images are too few, ExportError where the
    int8 graph judges otherwise or is not faster, EngineError where ONNX Runtime, which quantises, is not installed.
    """
    kind = check_exportable(model)
    if runtime not in RUNTIMES:
        raise ConfigError(f"no runtime '{runtime}'", hint=f"one of {', '.join(RUNTIMES)}")
    if model.categories is not None:
        message = "int8 thresholds are made for one product, and this model knows several"
        raise ConfigError(message, hint="export it in float32, without --int8")
    if find_spec("onnxruntime") is None:
        raise EngineError("onnxruntime, which makes the int8 graph, is not installed", hint="pip install onnxruntime")
    before = next(iter(model.calibrators.values()))
    ranges, judged = _parts(records, images_needed(before.alpha, before.confidence))
    for_ranges = [kind.ready(record)[1] for record in track(ranges, "ranges", len(ranges))]
    quantised = _Quantiser(model.graph, for_ranges)
    layers, graph = _kept(quantised, for_ranges, model.graph, runtime)
    if not layers:
        raise ExportError(
            "every layer spoils the scores in int8 on this runtime, so there is nothing to gain",
            hint="export it in float32, without --int8",
        )
    runs = {
        name: ExportedGraph(graph_files(g, runtime), runtime) for name, g in (("f32", model.graph), ("int8", graph))
    }
    made, scores = {}, {}
    for name, run in runs.items():
        found = good_scores(Deployed(lambda _, run=run: run, kind), judged, track)  # type: ignore[misc]
        made[name] = calibrators([found], before.alpha, per_unit=before.per_unit, confidence=before.confidence)["f32"]
    good = [kind.ready(record)[1] for record in judged]
    bad = [_damaged(picture, seed) for seed, picture in enumerate(good)]
    for name, run in runs.items():
        pictures = track([*good, *bad], f"gate, {name}", len(good) + len(bad))
        scores[name] = np.array([_score(run, picture) for picture in pictures])
    verdicts = {name: scores[name] > made[name].threshold for name in runs}
    milliseconds = timed(runs, good)
    found_in = {name: float(verdicts[name][len(good) :].mean()) for name in runs}
    figures: dict[str, Any] = {
        "runtime": f"{_PACKAGE[runtime]} {version(_PACKAGE[runtime])}",
        "processor": platform.processor() or platform.machine(),
        "ranges_from": len(ranges),
        "layers": len(layers),
        "layers_in_float32": len(quantised.layers) - len(layers),
        "compared_on": {"good": len(good), "synthetic_defects": len(bad)},
        "rank": compared([scores["f32"].tolist(), scores["int8"].tolist()])["rank"],
        "equal_verdicts": float((verdicts["f32"] == verdicts["int8"]).mean()),
        "found": found_in,
        "milliseconds": milliseconds,
        "time_ratio": milliseconds["int8"] / milliseconds["f32"],
        "limits": {"rank": RANK, "equal_verdicts": EQUAL, "found_less": MISSED, "time_ratio": FASTER},
    }
    check(figures)
    return replace(model, graph=graph, calibrators={"f32": made["int8"]}), figures


def check(figures: dict[str, Any]) -> None:
    """ExportError, with the figures, where an int8 graph does not pass."""
    ratio, found = figures["time_ratio"], figures["found"]
    wrong = []
    if figures["rank"] < RANK:
        wrong.append(f"the rank correlation of scores is {figures['rank']:.3f}, and {RANK} is the least")
    if figures["equal_verdicts"] < EQUAL:
        wrong.append(f"{figures['equal_verdicts']:.1%} of verdicts are equal, and {EQUAL:.0%} is the least")
    if found["int8"] < found["f32"] - MISSED:
        wrong.append(f"{found['int8']:.0%} of synthetic defects are found, and {found['f32']:.0%} in float32")
    if ratio > FASTER:
        wrong.append(f"it takes {ratio:.2f} of the time of float32 on this machine, and {FASTER} is the most")
    if wrong:
        raise ExportError(
            f"int8 is not written: {'; '.join(wrong)}",
            hint="export it in float32, without --int8, or for the other runtime",
        )


def timed(runs: dict[str, ExportedGraph], pictures: Sequence[Picture]) -> dict[str, float]:
    """Median milliseconds of each graph for one image, one graph after the other on each: what slows the machine slows
    both."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(ROUNDS + 3):  # the first ones warm up
        for name, run in runs.items():
            image = pictures[number % len(pictures)][None]
            start = perf_counter()
            run(image)
            taken[name].append(1000 * (perf_counter() - start))
    return {name: float(np.median(values[3:])) for name, values in taken.items()}


_PACKAGE = {"onnx": "onnxruntime", "openvino": "openvino"}


def _parts(records: Sequence[Record], needed: int) -> tuple[list[Record], list[Record]]:
    """Images for ranges, and for all else: a quarter of the units, at random but the same each time, and the others."""
    units: dict[str, list[Record]] = {}
    for record in records:
        units.setdefault(record.whole, []).append(record)
    order = [list(units.values())[i] for i in np.random.default_rng(0).permutation(len(units))]
    share = min(RANGES, len(order) // 4)
    if len(order) - share < needed or share < 1:
        least = max(4, needed)
        while least - min(RANGES, least // 4) < needed:
            least += 1
        raise CalibrationError(
            f"{len(order)} good images, or units of them, are too few for an int8 graph with the same promise",
            hint=f"give at least {least} that the model has not learned from",
        )
    ranges = [record for unit in order[:share] for record in unit]
    return ranges[:RANGES], [record for unit in order[share:] for record in unit]


def _damaged(picture: Picture, seed: int) -> Picture:
    return Graded()(picture, np.random.default_rng([7, seed]))[0]


def _score(run: ExportedGraph, picture: Picture) -> float:
    return float(run(picture[None])[0][0])


class _Quantiser:
    """Makes int8 graphs: each time of other layers, from ranges on the same images."""

    def __init__(self, graph: bytes, pictures: Sequence[Picture]) -> None:
        import onnx

        self.graph, self.pictures = _folded(graph), pictures
        nodes = onnx.load_from_string(self.graph).graph.node
        self.layers = [n.name for n in nodes if n.op_type in LAYERS and n.name and not n.name.startswith(HEAD)]

    def __call__(self, layers: Sequence[str]) -> bytes:
        """The graph with these layers in int8."""
        from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

        pictures = iter(self.pictures)

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def get_next(self) -> dict[str, Picture] | None:
                picture = next(pictures, None)
                return None if picture is None else {"image": picture[None]}

        with tempfile.TemporaryDirectory() as folder, _calm():
            source, made = Path(folder) / "f32.onnx", Path(folder) / "int8.onnx"
            source.write_bytes(self.graph)
            options = {"per_channel": True, "weight_type": QuantType.QInt8, "nodes_to_quantize": list(layers)}
            quantize_static(source, made, Reader(), **options)
            return made.read_bytes()


def _folded(graph: bytes) -> bytes:
    """The graph as ONNX Runtime simplifies it for any machine: normalisations are in the weights of convolutions."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = f"{folder}/folded.onnx"
        options.log_severity_level = 3
        onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return (Path(folder) / "folded.onnx").read_bytes()


class _calm:
    """Without what the quantiser logs: it asks for a step that `_folded` stands in for."""

    def __enter__(self) -> None:
        self.before = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *_: object) -> None:
        logging.disable(self.before)


def _kept(quantised: _Quantiser, pictures: Sequence[Picture], graph: bytes, runtime: str) -> tuple[list[str], bytes]:
    """The layers that int8 does not spoil on this runtime, and the graph with these in int8."""
    probed = [*pictures[:PROBED], *(_damaged(p, seed) for seed, p in enumerate(pictures[:PROBED]))]

    def scores(of: bytes) -> NDArray[np.float64]:
        run = ExportedGraph(graph_files(of, runtime), runtime)
        return np.array([_score(run, picture) for picture in probed])

    exact = scores(graph)
    limit = SPOILED * max(float(np.ptp(exact)), 1e-12)
    made: dict[tuple[str, ...], bytes] = {}

    def spoiling(layers: Sequence[str]) -> list[str]:
        made[tuple(layers)] = quantised(layers)
        if np.abs(scores(made[tuple(layers)]) - exact).max() <= limit:
            return []
        half = len(layers) // 2
        return list(layers) if not half else [*spoiling(layers[:half]), *spoiling(layers[half:])]

    spoiled = set(spoiling(quantised.layers)) if quantised.layers else set()
    kept = [layer for layer in quantised.layers if layer not in spoiled]
    return kept, made.get(tuple(kept)) or (quantised(kept) if kept else b"")
