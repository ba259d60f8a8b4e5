"""What is drawn is what is computed: every function on numpy arrays and as a graph in two engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from blemish.inspection.engines import open_engine
from blemish.ops import arrays
from blemish.ops.anchors import CANDIDATES, Anchors
from blemish.ops.drawing import Drawn, Graph
from blemish.ops.draws import Draws
from blemish.ops.neighbours import nearest
from blemish.ops.patches import mean_around, to_grid

pytestmark = pytest.mark.numeric

SHAPE = (3, 5, 8)
BANK = np.random.default_rng(1).normal(size=(5000, 8)).astype(np.float32)
TABLE = np.random.default_rng(2).normal(size=(5, 8)).astype(np.float32)


def voters(count: int) -> Anchors:
    levels = [np.random.default_rng(k).normal(k, 1, size=(4, 3, 5, 8)).astype(np.float32) for k in range(count)]
    anchors = Anchors(np.zeros(3, np.float32), np.ones(3, np.float32), count=3)
    anchors.add(levels, Draws(0))
    return anchors


def nearest_of(x: Any) -> tuple[Any, Any]:
    return nearest(x.reshape(-1, 8), BANK)


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "operators": lambda x: (2.0 - x * 3 + 1) / (TABLE[0] * TABLE[0] + 1.0) - TABLE + (1.0 / (x * x + 2.0)),
    "product": lambda x: TABLE[:, :5] @ (x @ BANK[:6].T),
    "coarse product": lambda x: arrays.coarse_product(x, BANK[:6].T),
    "slices": lambda x: x[:, 1, None, 1:4, ::2] + x[:, -1, None, 1:4, :4],
    "shapes": lambda x: x.reshape(-1, 15, 8).transpose(0, 2, 1),
    "sums": lambda x: arrays.total(x, 2) + arrays.mean(x, -2) + arrays.largest(x, 2),
    "kept axes": lambda x: x / (1.0 + arrays.largest(x, 3, keepdims=True)),
    "roots": lambda x: arrays.sqrt(arrays.at_least(x, 0.01)) + arrays.exp(x),
    "joined": lambda x: arrays.joined([x, x * 2.0], 2),
    "top": lambda x: arrays.top(x, 3)[0],
    "smallest": lambda x: arrays.top(x, 2, smallest=True)[0],
    "one": lambda x: arrays.top(x, 1)[0],
    "picked": lambda x: arrays.picked(x, arrays.top(x, 2)[1]),
    "rows": lambda x: arrays.rows(arrays.constant(TABLE, like=x), arrays.top(x[:, :, :, :5], 2)[1]),
    "columns": lambda x: arrays.columns(x, np.array([1, 4, 7])),
    "repeated": lambda x: arrays.repeated(x[:, :, :1], 4, 2),
    "comparisons": lambda x: arrays.as_float(x >= 0.5) + arrays.where_equal(x, arrays.largest(x, 3, keepdims=True)),
    "unit": lambda x: arrays.unit(x, 3),
    "softmax": arrays.softmax,
    "exact": arrays.exact,
    "around": lambda x: mean_around(x, 3),
    "blocks": lambda x: to_grid(x[:, :, :4], (4, 8), (2, 4)),
    "bilinear": lambda x: to_grid(x, (5, 8), (3, 5)),
    "nearest": lambda x: nearest_of(x)[0].reshape(-1, 15),
    "nearest row": lambda x: arrays.rows(arrays.constant(BANK, like=x), nearest_of(x)[1].reshape(-1, 15)),
    "votes": lambda x: voters(2)(x, (5, 8))[0],
    "strangeness": lambda x: voters(2)(x, (5, 8))[1],
    "votes of many": lambda x: voters(CANDIDATES + 2)(x, (5, 8))[0],
    "strangeness of many": lambda x: voters(CANDIDATES + 2)(x, (5, 8))[1],
}


def drawn(function: Callable[[Any], Any]) -> bytes:
    graph = Graph()
    found: Drawn = function(graph.input("image", SHAPE))
    return bytes(graph.model({"found": (found, (None,) * (found.ndim - 1), np.float32)}).SerializeToString())  # type: ignore[dict-item]


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_drawn_function_is_the_computed_one(name: str, engine: str) -> None:
    if engine == "onnxruntime":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    x: NDArray[np.float32] = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    expected = FUNCTIONS[name](x)
    run = open_engine(drawn(FUNCTIONS[name]), engine, batch=2)
    (found,) = run(x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_constant_is_kept_once_and_doubles_become_floats() -> None:
    graph = Graph()
    x = graph.input("x", (8,))
    doubles = TABLE.astype(np.float64)
    _ = (x + TABLE) * TABLE - doubles
    assert len(graph.constants) == 2
    assert {array.dtype for array in graph.constants.values()} == {np.dtype(np.float32)}


def test_an_engine_finds_coarse_products_and_borders_by_their_names() -> None:
    graph = Graph()
    arrays.exact(arrays.coarse_product(graph.input("x", (3, 8)), BANK[:4].T))
    assert [node.name for node in graph.nodes] == ["coarse_product_0", "exact_1"]
