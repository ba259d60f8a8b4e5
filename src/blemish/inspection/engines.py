"""Engines: one ONNX graph, run by OpenVINO or ONNX Runtime.

A graph takes `image` (B, H, W, 3) uint8. A backbone's graph gives `features_0`, `features_1`, …; a model's graph gives
`score` (B,) and `anomaly_map` (B, H, W), and still has the features inside under the same names. A graph of signals
takes `signal` (B, K, L) float32 and gives `score` (B,) and `anomaly_map` (B, L).

With precision bf16, OpenVINO runs parts of it in bf16: see `inspection.graph_parts`.

Threads of a compiled graph do not live on in a forked child, and no compiled graph can be pickled. So an engine keeps
what it was made of, and compiles again where it finds itself in another process.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from blemish.config import nearest
from blemish.errors import EngineError, ModelFileError, ResourceError
from blemish.inspection.graph_parts import FEATURES, cut_at_features, is_feature, openvino_module, short_and_exact
from blemish.system import (
    forked,
    free_memory,
    is_out_of_memory,
    memory_for,
    never_free,
    release_memory,
    size_text,
    undisturbed,
)

Precision = Literal["f32", "bf16"]
ENGINES = ("openvino", "onnxruntime", "reference")
ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # who sets one has an instruction set less than the processor

Outputs = tuple[NDArray[np.float32], ...]

# OpenVINO fills its table of number types when it is first used; two threads that do so at once wait for each other
# forever (2026.4: one holds the table and wants the interpreter's lock, one the other way round). So one does it
# alone. Both locks are taken inside `undisturbed` only, so that no fork finds them held.
_FIRST_USE = threading.Lock()
_COMPILING = threading.Lock()
_SMALLER = "run it with fewer threads (--threads), or fit again with a smaller image_size (--image-size)"


class Engine(Protocol):
    """A compiled graph; may be called from several threads."""

    name: str
    precision: Precision

    def __call__(self, images: NDArray[Any]) -> Outputs:
        """(B, H, W, 3) uint8, or what else the graph takes, -> its outputs in order."""
        ...


@cache
def tune_process() -> None:
    """Keep freed memory in the process (glibc): page faults cost as much as the arithmetic on virtual machines.

    On other systems and C libraries there is nothing to set.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(-4, 0)  # M_MMAP_MAX
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        libc.mallopt(-2, 16 << 20)  # M_TOP_PAD


@cache
def best_precision() -> Precision:
    """bf16 where the processor computes in it, f32 else.

    OpenVINO names what the processor has. Where the environment holds its arithmetic below that
    (`ONEDNN_MAX_CPU_ISA`), a graph in bf16 may not compile at all: there it is tried.
    """
    core = openvino_module().Core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return "f32"
    if any(name in os.environ for name in ISA_LIMITS) and not _compiles_in_bf16(core):
        return "f32"
    return "bf16"


def _compiles_in_bf16(core: Any) -> bool:
    """Whether a small convolution can be had in bf16."""
    opset15 = openvino_module().opset15
    x = opset15.parameter([1, 4, 8, 8], np.float32)
    weight = opset15.constant(np.ones((4, 4, 3, 3), np.float32))
    graph = openvino_module().Model([opset15.convolution(x, weight, [1, 1], [0, 0], [0, 0], [1, 1])], [x])
    try:
        _compile(core, [(graph, "bf16")], 1)
    except RuntimeError:  # "object is not initialized", says 2026.4
        return False
    return True


def open_engine(
    graph: bytes, name: str = "openvino", *, precision: Precision = "f32", threads: int = 1, batch: int = 1
) -> Engine:
    """Compile a graph.

    `threads` is the number of callers that are served at the same time, each on one core. `batch` is the shape that
    the graph is compiled for; a smaller batch is padded.
    """
    if name in ("openvino", "local"):
        return OpenVino(graph, precision=precision, threads=threads, batch=batch)
    if name == "onnxruntime":
        return OnnxRuntime(graph)
    if name == "reference":
        raise EngineError("the reference needs the fitted method, not a graph", hint="Detector.inspector('reference')")
    raise EngineError(f"no engine '{name}'", hint=nearest(name, list(ENGINES)))


class _Compiled:
    """A graph that is compiled in the process that runs it: when it is made, and again in a forked child or where it
    was unpickled.

    Requests are handed out and taken back, so that each has one caller at a time.
    """

    def __init__(self) -> None:
        self._parts: list[Any] | None = None
        self._idle: list[list[Any]] = []
        _alive.add(self)

    def _make(self) -> list[Any]:
        """The compiled parts, in their order."""
        raise NotImplementedError

    @property
    def _compiled(self) -> list[Any]:
        with undisturbed, _COMPILING:
            if self._parts is None:
                with memory_for("compiling the graph", _SMALLER):
                    self._parts = self._make()
                release_memory()  # the graph that was read, and what its weights were before they were packed
            return self._parts

    def _run(self, inputs: Sequence[NDArray[Any]], *, share: bool, most: int | None = None) -> Outputs:
        parts = self._parts or self._compiled
        with undisturbed, memory_for("running the graph", _SMALLER):
            try:
                requests = self._idle.pop()
            except IndexError:
                requests = _chained(parts)
            requests[0].infer(list(inputs), share_inputs=share)
            for request in requests[1:]:
                request.infer()
            last = requests[-1]
            out = tuple(last.get_output_tensor(i).data[:most].copy() for i in range(len(last.model_outputs)))
            self._idle.append(requests)
        return out

    def _abandon(self) -> None:
        """In a forked child: what was compiled is never used again, nor freed, which would wait for its threads."""
        for thing in (self._parts, self._idle):
            never_free(thing)
        self._parts, self._idle = None, []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_parts": None, "_idle": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _alive.add(self)


_alive: weakref.WeakSet[_Compiled | OnnxRuntime] = weakref.WeakSet()


def _abandon_all() -> None:
    for engine in list(_alive):
        engine._abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)


class OpenVino(_Compiled):
    """OpenVINO on the CPU; one stream per thread, no spinning."""

    name = "openvino"

    def __init__(self, graph: bytes, *, precision: Precision, threads: int, batch: int) -> None:
        super().__init__()
        self.precision: Precision = precision
        self.batch = batch
        self._graph, self._threads = graph, threads
        _ = self._compiled  # an error in a graph is reported at once

    def _make(self) -> list[Any]:
        openvino = openvino_module()
        if self.precision == "bf16" and best_precision() != "bf16":
            raise EngineError(
                "this processor does not compute in bf16",
                hint="run it in f32, for which every calibration is made too",
            )
        tune_process()
        with _FIRST_USE:
            openvino.Type.u8.to_dtype()
        core = openvino.Core()
        try:
            model = core.read_model(self._graph)
            shape = model.input(0).get_partial_shape()
            shape[0] = self.batch
            model.reshape(shape)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise ModelFileError(f"the graph cannot be read: {str(error).strip().splitlines()[-1]}") from error
        parts = [(model, "f32")]
        if self.precision == "bf16":
            trunk, *head = cut_at_features(model)
            parts = [(trunk, "bf16"), *(part for h in head for part in short_and_exact(h))]
            if not head and not any(map(is_feature, model.outputs)):  # a method that takes samples as they are
                parts = short_and_exact(model)
        return _compile(core, parts, self._threads)

    def __call__(self, images: NDArray[Any]) -> Outputs:
        n = len(images)
        if n < self.batch:
            images = np.concatenate([images, np.repeat(images[-1:], self.batch - n, 0)])
        return self._run([images], share=True, most=n)


def _compile(core: Any, parts: Sequence[tuple[Any, str]], threads: int) -> list[Any]:
    _check_memory(parts, threads)
    options = {"NUM_STREAMS": threads, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "THROUGHPUT"}
    return [core.compile_model(part, "CPU", {**options, "INFERENCE_PRECISION_HINT": hint}) for part, hint in parts]


def _check_memory(parts: Sequence[tuple[Any, str]], threads: int) -> None:
    """ResourceError where a graph's weights, and for each thread its largest layer's input and output, do not fit."""
    free = free_memory()
    if free is None:
        return
    weights, largest = 0, 0
    for part, hint in parts:
        for node in part.get_ordered_ops():
            if node.get_type_name() == "Constant":
                weights += _bytes(node.output(0))
            elif node.get_type_name() in ("Convolution", "GroupConvolution", "MatMul"):
                layer = _bytes(node.output(0)) + _bytes(node.input_value(0))
                largest = max(largest, layer // (2 if hint == "bf16" else 1))
    if weights + threads * largest > free.bytes:
        most = (free.bytes - weights) // largest if largest else 0
        raise ResourceError(
            f"running the graph in {threads} threads needs at least {size_text(weights + threads * largest)}, "
            f"and {size_text(free.bytes)} {free.limit} is free",
            hint=f"threads={most} (--threads {most}) may fit"
            if most >= 1
            else "fit again with a smaller image_size (--image-size)",
        )


def _bytes(port: Any) -> int:
    shape = port.get_partial_shape()
    return int(port.get_element_type().size) * int(np.prod(shape.to_shape())) if shape.is_static else 0


class Head(_Compiled):
    """The part after the features, of a model's graph or of a head: features in, the outputs of the whole graph out.

    In bf16 the whole graph runs in parts anyway, cut at the features; in float32 both ways gave the same bits in all
    our tests. Code that relies on it compares some images (`blemish.evaluation.bench` does, in every cell).

    `levels` are the indices of the features it takes. ModelFileError where the graph has none inside.
    """

    levels: tuple[int, ...]

    def __init__(self, graph: bytes, *, precision: Precision, threads: int = 1) -> None:
        super().__init__()
        self._graph, self._precision, self._threads = graph, precision, threads
        _ = self._compiled

    def _make(self) -> list[Any]:
        openvino = openvino_module()
        core = openvino.Core()
        model = core.read_model(self._graph)
        model.reshape({port: [1, *list(port.get_partial_shape())[1:]] for port in model.inputs})
        head, ports = model, model.inputs
        if not all(is_feature(port) for port in ports):
            cut = cut_at_features(model)
            if len(cut) != 2:
                raise ModelFileError("the graph has no features inside")
            head, ports = cut[1], cut[0].outputs
        names = [next(n for n in port.get_names() if n.startswith(FEATURES)) for port in ports]
        self.levels = tuple(int(name.removeprefix(FEATURES)) for name in names)
        parts = short_and_exact(head) if self._precision == "bf16" else [(head, "f32")]
        return _compile(core, parts, self._threads)

    def __call__(self, maps: Sequence[NDArray[np.float32]]) -> Outputs:
        """All levels of one image (C_l, *grid_l) -> the outputs, each with a batch of one."""
        return self._run([np.ascontiguousarray(maps[level])[None] for level in self.levels], share=False)


def _chained(compiled: Sequence[Any]) -> list[Any]:
    """One request for each part; the output of one is the input of the next, without a copy."""
    requests = [c.create_infer_request() for c in compiled]
    for before, after in zip(requests, requests[1:], strict=False):
        for i in range(len(after.model_inputs)):
            after.set_input_tensor(i, before.get_output_tensor(i))
    return requests


class OnnxRuntime:
    """ONNX Runtime on the CPU, float32: the second engine behind the same file."""

    name = "onnxruntime"
    precision: Precision = "f32"

    def __init__(self, graph: bytes) -> None:
        self._graph = graph
        self._session: Any = None
        _alive.add(self)
        self._open()

    def _open(self) -> Any:
        """The session of this process."""
        with undisturbed, _COMPILING:
            if self._session is None:
                with memory_for("compiling the graph", _SMALLER):
                    self._session = _session(self._graph)
            return self._session

    def __call__(self, images: NDArray[Any]) -> Outputs:
        session = self._session or self._open()
        with undisturbed, memory_for("running the graph", _SMALLER):
            return tuple(session.run(None, {session.get_inputs()[0].name: images}))

    def _abandon(self) -> None:
        """As of what OpenVINO compiles."""
        never_free(self._session)
        self._session = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_graph": self._graph, "_session": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _alive.add(self)


def _session(graph: bytes) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        if is_out_of_memory(error):
            raise
        raise EngineError(
            "onnxruntime is not installed", hint="pip install onnxruntime, or leave the engine out (--engine)"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # its pool spins: two threads were slower than one beside a busy core
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base
        if is_out_of_memory(error):
            raise
        raise ModelFileError(f"the graph cannot be read: {str(error).splitlines()[0]}") from error


class ReferenceEngine:
    """What a graph is compared with, in numpy or PyTorch, behind the same call; `learning.export` builds it."""

    name = "reference"
    precision: Precision = "f32"

    def __init__(self, run: Callable[[NDArray[Any]], Outputs]) -> None:
        self._run = run

    def __call__(self, images: NDArray[Any]) -> Outputs:
        calm_torch()
        with undisturbed, memory_for("running the reference", _SMALLER):
            return self._run(images)

    def __reduce__(self) -> Any:
        raise EngineError("the reference cannot be pickled", hint="pickle the Detector, and open it there")


def calm_torch() -> None:
    """In a forked child PyTorch computes in one thread: those of its pool exist in the parent only, and it would wait
    for them forever.
    """
    torch = sys.modules.get("torch")  # what has not loaded it has no pool of its threads
    if forked() and torch is not None:
        if torch.get_num_threads() > 1:
            torch.set_num_threads(1)
