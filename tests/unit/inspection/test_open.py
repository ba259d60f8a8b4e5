"""What runs a model: its graph, or graph and heads, in the number format that was decided for it."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from blemish.errors import EngineError
from blemish.inspection import inspector, open, routed
from blemish.inspection.conformal import Calibrator
from blemish.inspection.inspector import precision_of
from blemish.inspection.meta import Meta
from blemish.inspection.modelfile import Model
from blemish.inspection.open import open_model
from blemish.inspection.routed import VOTE, Routed, Routes, head_name

HEADS = {VOTE: b"votes", head_name(0): b"a head"}


def model(*calibrated: str, precision: str = "f32", heads: dict[str, bytes] | None = None) -> Model:
    made = {name: Calibrator((1.0,) * 19, (1.0,) * 19, 0.05) for name in calibrated}
    return Model(Meta("any", {}, precision), made, b"", b"graph", {}, {}, heads=heads or {})


class Asked(NamedTuple):
    """How something was to be compiled."""

    graph: bytes
    options: dict[str, Any]


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_a_graph_runs_in_the_format_that_is_asked_for(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open, "open_engine", lambda graph, name, **options: Asked(graph, {"name": name, **options}))
    asked = open_model(model(), precision=precision, threads=2, batch=3)
    assert asked == Asked(b"graph", {"name": "openvino", "precision": precision, "threads": 2, "batch": 3})


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_heads_run_in_the_format_that_is_asked_for_and_the_router_in_float32(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routed, "open_engine", lambda graph, **options: Asked(graph, options))
    monkeypatch.setattr(routed, "Head", lambda graph, **options: Asked(graph, options))
    engine: Any = open_model(model(heads=HEADS), precision=precision, threads=2, batch=3)
    assert isinstance(engine, Routed)
    assert engine.precision == precision
    assert engine._trunk == Asked(b"graph", {"precision": precision, "threads": 2, "batch": 3})
    assert engine._routes._vote == Asked(b"votes", {"precision": "f32", "threads": 2})
    assert engine._routes._heads._elected(0) == Asked(b"a head", {"precision": precision, "threads": 2})


def test_heads_that_were_needed_longest_ago_are_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[bytes] = []
    monkeypatch.setattr(routed, "Head", lambda graph, **_: compiled.append(graph))
    monkeypatch.setattr(routed, "KEPT", 2)
    routes = Routes({VOTE: b"votes", **{head_name(k): b"%d" % k for k in range(3)}}, precision="f32")
    for number in (0, 1, 0, 2, 0, 1):
        routes._heads._elected(number)
    assert compiled == [b"votes", b"0", b"1", b"2", b"1"]


@pytest.mark.parametrize(
    ("wanted", "machine", "engine", "chosen"),
    [
        ("bf16", "bf16", "openvino", "bf16"),
        ("bf16", "bf16", "local", "bf16"),
        ("bf16", "f32", "openvino", "f32"),
        ("f32", "bf16", "openvino", "f32"),
        ("bf16", "bf16", "onnxruntime", "f32"),
    ],
)
def test_a_model_runs_in_its_own_format_where_the_engine_has_it(
    wanted: str, machine: str, engine: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspector, "best_precision", lambda: machine)
    assert precision_of(model("f32", "bf16", precision=wanted), engine) == chosen
    assert precision_of(model(precision=wanted), engine) == chosen


def test_a_promise_of_another_format_is_not_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspector, "best_precision", lambda: "f32")
    with pytest.raises(EngineError, match="calibrated for bf16, this engine computes in f32") as caught:
        precision_of(model("bf16", precision="bf16"), "openvino")
    assert "blemish calibrate" in str(caught.value.hint)
