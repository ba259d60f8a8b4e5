"""The only training loop. It gets training data only, so it cannot look at test data.

    phases     each: begin, steps of AdamW along a cosine, the last step kept
    measure    all samples                          (what the finished networks make of good ones)
    settle     the samples that no step has seen    (levels of scores)

A step's samples, and what the method draws in it, depend on seed, phase and step alone. So a run that was killed goes
on from its last snapshot to the weights that it would have had.

Everything is computed in float32. With `Plan.bf16`, the networks that learn compute in bf16, and they alone: losses,
statistics, distances and frozen networks stay in float32 (`networks_in_bf16`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import wraps
from itertools import chain
from time import monotonic
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from blemish.errors import TrainingDiverged
from blemish.learning.observing import seen_again, train
from blemish.learning.sampler import Draws, Samples, SeenAgain, in_order, seed_of
from blemish.methods.base import Phase
from blemish.methods.torch_base import TorchMethod, exactly
from blemish.types import Batch, PhaseReport, Track

SNAPSHOT = 30.0  # seconds between two snapshots
FEWEST = 20  # steps of a phase, however small the budget
LOOKED = 16  # samples that are looked at together
WATCHED = 64  # held-out samples on which a flat phase is watched
EVERY = 25  # steps between two looks at them
PATIENCE = 4  # looks in a row that have to be no better before the loss counts as flat
BETTER = 0.01  # share by which a loss has to be lower than the lowest before it, to be better
TAIL = 0.25  # share of a flat phase's steps in which its rate falls


class Store(Protocol):
    """Where tensors are kept between runs, by name."""

    def get(self, name: str) -> bytes | None: ...

    def put(self, name: str, data: bytes) -> None: ...

    def drop(self, name: str) -> None: ...


@dataclass
class Plan:
    """How a run is carried out; none of it changes what is learned, except for `budget` and `bf16`.

    budget     seconds for all phases together; steps that do not fit are cut, and reported
    store      where snapshots are kept, and what phases share
    name       of this run in the store: a digest of all that its outcome depends on
    shared     the same of a shared phase
    scenes     the synthetic images that phases ask for
    artefact   what a shared phase would learn (`learned`), in place of learning it
    bf16       the networks that learn compute in bf16; else all is float32
    """

    budget: float | None = None
    store: Store | None = None
    name: str = ""
    shared: Callable[[Phase], str] | None = None
    scenes: Samples | None = None
    artefact: bytes | None = None
    bf16: bool = False
    track: Track | None = None
    snapshot_every: float = SNAPSHOT
    report: list[PhaseReport] = field(default_factory=list)  # one entry per phase, filled on the way

    @property
    def precision(self) -> str:
        """Number format of the networks that learn."""
        return "bf16" if self.bf16 else "f32"


def _exactly(run: Callable[..., None]) -> Callable[..., None]:
    """Training of a method, its first argument, in float32. What is the method's own is called inside `on_device`; the
    optimiser is not, whose counters stay on the processor.
    """

    @wraps(run)
    def exact(method: TorchMethod[Any], *given: Any, **named: Any) -> None:
        with exactly(method.device):
            run(method, *given, **named)

    return exact


def learn(method: TorchMethod[Any], samples: Samples, held: Samples | None = None, plan: Plan | None = None) -> Plan:
    """Everything from the first look to the last step; `samples` are learned from, `held` only settle.

    to `settle`. Without held samples, `settle` gets `samples`. Returns the plan with its report. TrainingDiverged
    where a loss is not finite.
    """
    plan = plan or Plan()
    train(method, in_order(samples))
    run_phases(method, samples, held, plan)
    return plan


def _looked(method: TorchMethod[Any], samples: Samples) -> Iterator[Batch]:
    """All samples once, undamaged, in tensors."""
    return map(method.placed, in_order(samples))


def _judged(method: TorchMethod[Any], samples: Samples, size: int, count: int) -> Iterator[Batch]:
    """The first `count` samples, as what no step has seen is looked at: undamaged, or, where the method learns from
    damaged copies, in one of their views with such a copy each, always the same ones.
    """
    twins = method.wants(method.config).twin is not None
    for start in range(0, count, size):
        generator = torch.Generator().manual_seed(seed_of(start, 5)) if twins else None
        yield method.placed(samples.batch(range(start, min(start + size, count)), generator))


@_exactly
def run_phases(method: Any, samples: Samples, held: Samples | None, plan: Plan) -> None:
    """All that follows `conclude`."""
    phases = method.phases()
    left = sum(phase.steps for phase in phases)
    ends = None if plan.budget is None else monotonic() + plan.budget
    for number, phase in enumerate(phases):
        seconds = None if ends is None else max(ends - monotonic(), 0.0) * phase.steps / max(left, 1)
        _run(method, number, phase, samples, held, plan, seconds)
        left -= phase.steps
    _finish(method, samples, held)
    method.trained = True
    if plan.store is not None:
        plan.store.drop(plan.name)


@torch.no_grad()
def _finish(method: Any, samples: Samples, held: Samples | None) -> None:
    """What follows the last step."""
    method.requires_grad_(False)
    method.eval()
    apart = held if held is not None and len(held) else None
    last = apart or samples
    all_looked = (_again(method, each, _looked(method, each)) for each in (samples, apart) if each is not None)
    with method.on_device():
        method.measure(chain.from_iterable(all_looked))
        method.settle(_again(method, last, _judged(method, last, LOOKED, len(last))))


def _again(method: TorchMethod[Any], samples: Samples, batches: Iterator[Batch]) -> Iterator[Batch]:
    """With the features of what the method makes of them, where it asks for that."""
    if not method.wants(method.config).again:
        return batches
    maps_of = cast(SeenAgain, samples).maps_of
    return (seen_again(method, batch, maps_of) for batch in batches)


@_exactly
def go_on(method: Any, samples: Samples, held: Samples | None, plan: Plan, share: float, rate: float) -> None:
    """Further steps of a fitted method, on other samples: each phase but the shared ones, at `share` of its steps and
    `rate` of its rate.

    The samples are observed, and phases begin on them, for what only training needs (a bank to draw from, noise like
    theirs); the fitted state is then restored, and steps continue from there.
    """
    state = {name: value.clone() for name, value in method.fitted_state().items()}
    train(method, in_order(samples))
    with method.on_device():
        method.load_fitted(state)
    for number, phase in enumerate(method.phases()):
        if phase.shared:
            continue
        paces = tuple(pace._replace(rate=rate * pace.rate) for pace in phase.paces)
        steps = max(round(share * phase.steps), 1)
        shorter = replace(phase, steps=steps, rate=rate * phase.rate, paces=paces, flat=False)
        state = {name: value.clone() for name, value in method.fitted_state().items()}
        with torch.no_grad(), method.on_device():
            method.begin(phase, _looked(method, samples))
            method.load_fitted(state)
        plan.report.append(_PhaseRun(method, number, shorter, samples, plan, None).steps())
    _finish(method, samples, held)


@exactly()
def learned(method: TorchMethod[Any], phase: Phase, samples: Samples, plan: Plan) -> bytes:
    """What one phase of a method learns from these samples, as a file for `Plan.artefact`."""
    _run(method, 0, phase, samples, None, plan, None)
    return _learned(method, phase)


def _run(
    method: TorchMethod[Any],
    number: int,
    phase: Phase,
    samples: Samples,
    held: Samples | None,
    plan: Plan,
    seconds: float | None,
) -> None:
    """One phase: from the cache, from a snapshot, or from its first step."""
    kept = plan.shared(phase) if phase.shared and plan.shared is not None and plan.store is not None else None
    data = plan.scenes if phase.data == "scenes" and plan.scenes is not None else samples
    plan.report.append(PhaseReport(phase.name, phase.steps, phase.steps, plan.precision))
    found = plan.artefact if phase.shared else None
    if found is None and kept is not None and plan.store is not None:
        found = plan.store.get(kept)
    if found is not None:
        _load(method, phase, found)
        plan.report[-1] = replace(plan.report[-1], kept=True)
        return
    run = _PhaseRun(method, number, phase, data, plan, None if kept else seconds, held)
    saved_phase = run.resume()
    if saved_phase > number:
        # a later phase's snapshot holds the result of this one
        plan.report[-1] = replace(plan.report[-1], resumed=True)
        return
    if saved_phase < number:
        with torch.no_grad(), method.on_device():
            method.eval()
            method.begin(phase, _looked(method, data))
    plan.report[-1] = run.steps()
    if kept is not None and plan.store is not None:
        plan.store.put(kept, _learned(method, phase))


class _Watch:
    """Whether the loss on held-out samples still falls: what a flat phase ends by."""

    def __init__(self, errors: Sequence[float] = (), flat_at: int = -1, elapsed: float = 0.0) -> None:
        self.errors = list(errors)  # at each look
        self.flat_at = flat_at  # step from which the rate falls; -1 while it does not
        self.elapsed = elapsed  # seconds until then

    @property
    def flat(self) -> bool:
        """Whether none of the last looks was better than the best one before them."""
        before, last = self.errors[:-PATIENCE], self.errors[-PATIENCE:]
        return bool(before) and min(last) > (1 - BETTER) * min(before)

    def to_json(self) -> dict[str, Any]:
        return {"errors": self.errors, "flat_at": self.flat_at, "elapsed": self.elapsed}


class _PhaseRun:
    """The steps of one phase; `held` are samples that no step sees."""

    def __init__(
        self,
        method: TorchMethod[Any],
        number: int,
        phase: Phase,
        samples: Samples,
        plan: Plan,
        seconds: float | None,
        held: Samples | None = None,
    ) -> None:
        self.method, self.number, self.phase, self.samples, self.plan = method, number, phase, samples, plan
        self.seconds = seconds
        self.held = held if phase.flat and held is not None and len(held) else None
        self.watch = _Watch()
        method.requires_grad_(False)
        groups = _groups(method, phase)
        self.parameters = [p.requires_grad_() for group in groups for p in group["params"]]
        self.optimiser = torch.optim.AdamW(groups, betas=phase.betas, foreach=True)
        self.step, self.elapsed = 0, 0.0
        self.seed = 0 if phase.shared else method.seed  # what is shared is the same for all seeds
        self.networks: list[nn.Module] = []  # that compute in bf16

    def progress(self) -> float:
        """Progress in [0, 1) while steps remain: in steps, or in time where that ends first."""
        return self._share(0, 0.0, self.phase.steps)

    def _share(self, start: int, elapsed: float, steps: int) -> float:
        """Of the `steps` that follow `start`, or of the time that is left then."""
        done = (self.step - start) / max(steps, 1)
        if self.seconds is not None and self.step >= FEWEST:
            done = max(done, (self.elapsed - elapsed) / max(self.seconds - elapsed, 1e-9))
        return done

    def falling(self) -> float:
        """The same of the stretch in which the rate falls: the whole phase, or the tail of a flat one."""
        if self.held is None:
            return self.progress()
        at = self.watch.flat_at
        if at < 0:
            return 0.0
        tail = min(max(math.ceil(at * TAIL / (1 - TAIL)), 1), self.phase.steps - at)
        return self._share(at, self.watch.elapsed, tail)

    def look(self) -> None:
        """Before a step of a flat phase: whether its rate is to fall from here on."""
        if self.held is None or self.watch.flat_at >= 0:
            return
        if self.step and self.step % EVERY == 0:
            self.watch.errors.append(self._error(self.held))
        if self.watch.flat or self.progress() >= 1 - TAIL:
            self.watch.flat_at, self.watch.elapsed = self.step, self.elapsed

    @torch.no_grad()
    def _error(self, held: Samples) -> float:
        """The mean loss of held-out samples, always with the same draws."""
        self.method.eval()
        total, count = 0.0, min(len(held), WATCHED)
        for number, batch in enumerate(_judged(self.method, held, self.phase.batch, count)):
            self.method.generator.manual_seed(seed_of(self.seed, self.number, number, 4))
            with self.method.on_device():
                terms = self.method.loss(self.phase, batch, 1.0)
            total += len(batch.ids) * sum(float(term) for term in terms.values())
        self._learn()
        return total / count

    def _learn(self) -> None:
        self.method.eval()
        for name in self.phase.learns:
            if isinstance(part := getattr(self.method, name), nn.Module):
                part.train()

    def steps(self) -> PhaseReport:
        """Run them; what is to be reported."""
        phase, method = self.phase, self.method
        first: dict[str, float] = {}
        terms: dict[str, float] = {}
        self._learn()
        self.networks = learning_modules(method) if self.plan.bf16 else []
        started, before, kept_at = monotonic(), self.elapsed, monotonic()
        draws = Draws(self.samples, phase, self.seed, self.number)
        with closing(draws.prefetched(self.step)) as drawn:
            todo: Iterable[Batch] = drawn
            if self.plan.track is not None:
                todo = self.plan.track(todo, f"train: {phase.name}", phase.steps - self.step)
            for batch in todo:
                self.look()
                terms = self._step(batch)
                first = first or terms
                self.step += 1
                self.elapsed = before + monotonic() - started
                if self.plan.store is not None and monotonic() - kept_at > self.plan.snapshot_every:
                    self.plan.store.put(self.plan.name, self._snapshot())
                    kept_at = monotonic()
                if self.progress() >= 1 or self.falling() >= 1:
                    break
        return PhaseReport(
            phase.name,
            phase.steps,
            self.step,
            self.plan.precision,
            flat=self.watch.flat,
            seconds=round(self.elapsed, 2),
            first=first,
            last=terms,
        )

    def _step(self, batch: Batch) -> dict[str, float]:
        phase, method = self.phase, self.method
        progress, fallen = min(self.progress(), 1.0), min(self.falling(), 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = group["rate"] * (phase.floor + (1 - phase.floor) * 0.5 * (1 + math.cos(math.pi * fallen)))
        method.generator.manual_seed(seed_of(self.seed, self.number, self.step, 1))
        self.optimiser.zero_grad(set_to_none=True)
        with networks_in_bf16(self.networks, method.device) if self.networks else nullcontext(), method.on_device():
            terms = method.loss(phase, method.placed(batch), progress)
        total = torch.stack([term.float() for term in terms.values()]).sum()
        values = {name: round(float(term.detach()), 6) for name, term in terms.items()}
        if not math.isfinite(float(total.detach())):
            raise TrainingDiverged(
                f"phase {phase.name}, step {self.step}: the loss is not finite ({values})",
                hint="lower the rate, or look for images of another kind among the good ones",
            )
        total.backward()  # type: ignore[no-untyped-call]
        if phase.clip:
            nn.utils.clip_grad_norm_(self.parameters, phase.clip)
        self.optimiser.step()
        with torch.no_grad(), method.on_device():
            method.after(phase, progress)
        return values

    def _snapshot(self) -> bytes:
        from safetensors.torch import save

        tensors = {f"method.{k}": v for k, v in self.method.state_dict().items()}
        for i, state in enumerate(self.optimiser.state_dict()["state"].values()):
            tensors |= {f"optimiser.{i}.{k}": v for k, v in state.items()}
        at = {"phase": self.number, "step": self.step, "elapsed": self.elapsed, "watch": self.watch.to_json()}
        return save(_apart(tensors), metadata={"at": json.dumps(at)})

    def resume(self) -> int:
        """The phase of the snapshot, -1 where there is none; of this phase or a later one, its state is taken over."""
        store = self.plan.store
        if store is None or (data := store.get(self.plan.name)) is None:
            return -1
        tensors, at = _read(data)
        saved_phase = int(at["phase"])
        if saved_phase < self.number:
            return -1
        method_state = {k.removeprefix("method."): v for k, v in tensors.items() if k.startswith("method.")}
        self.method.load_state_dict(method_state)
        if saved_phase == self.number:
            state = self.optimiser.state_dict()
            for key, value in tensors.items():
                if key.startswith("optimiser."):
                    _, i, name = key.split(".", 2)
                    state["state"].setdefault(int(i), {})[name] = value
            self.optimiser.load_state_dict(state)
            self.step, self.elapsed, self.watch = at["step"], at["elapsed"], _Watch(**at["watch"])
        return saved_phase


def _groups(method: TorchMethod[Any], phase: Phase) -> list[dict[str, Any]]:
    """The parameters that learn, by rate and decay: those of the phase, then those of each part with its own pace."""
    unpaced: list[nn.Parameter] = []
    paced: list[dict[str, Any]] = []
    paces = {pace.part: pace for pace in phase.paces}
    if strange := paces.keys() - set(phase.learns):
        raise ValueError(f"phase {phase.name} has a pace for {sorted(strange)}, which does not learn in it")
    for name in phase.learns:
        part = getattr(method, name)
        found = list(part.parameters()) if isinstance(part, nn.Module) else [part]
        if (pace := paces.get(name)) is None:
            unpaced += found
        else:
            paced.append(_group(found, pace.rate, pace.decay))
    return [*([_group(unpaced, phase.rate, phase.decay)] if unpaced else []), *paced]


def _group(parameters: list[nn.Parameter], rate: float, decay: float) -> dict[str, Any]:
    return {"params": parameters, "lr": rate, "rate": rate, "weight_decay": decay}


def learning_modules(method: nn.Module) -> list[nn.Module]:
    """All modules inside a method that hold parameters which learn now."""
    inside = (module for module in method.modules() if module is not method)
    return [module for module in inside if any(p.requires_grad for p in module.parameters())]


@contextmanager
def networks_in_bf16(modules: Sequence[nn.Module], device: str = "cpu") -> Iterator[None]:
    """Calls of these modules compute in bf16 where PyTorch's autocast does, and nothing else does.

    Autocast is entered at the call of a module from outside of any other, and left after it, where the output is
    float32 again. So a loss, a statistic or a distance never sees autocast: differences of nearly equal numbers need
    full precision. Frozen networks are not among the modules, since their output is what others are compared with.
    """
    entered, kind = False, torch.device(device).type

    def short(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any, **named: Any) -> Any:
            nonlocal entered
            if entered:  # a part of a network: what the network has switched off stays off
                return forward(*given, **named)
            entered = True
            try:
                # without a cache: inside another autocast it is not emptied, and the next step would find old weights
                with torch.autocast(kind, torch.bfloat16, cache_enabled=False):
                    return _float32(forward(*given, **named))
            finally:
                entered = False

        return run

    with ExitStack() as stack:
        for module in modules:
            attributes = module.__dict__  # an entry here takes precedence over the class's own
            if "forward" in attributes:
                stack.callback(attributes.update, forward=attributes["forward"])
            else:
                stack.callback(attributes.pop, "forward")
            attributes["forward"] = short(module.forward)
        yield


def _float32(out: Any) -> Any:
    """The output of a network, its bf16 tensors as float32."""
    if isinstance(out, Tensor):
        return out.float() if out.dtype == torch.bfloat16 else out
    if isinstance(out, dict):
        return {key: _float32(value) for key, value in out.items()}
    if isinstance(out, tuple) and hasattr(out, "_fields"):
        return type(out)(*map(_float32, out))
    if isinstance(out, tuple | list):
        return type(out)(map(_float32, out))
    return out


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies in memory, none of which shares it with another, which safetensors refuses: whatever device goes on."""
    return {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}


def _read(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and the metadata beside them."""
    from safetensors.torch import load

    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return load(data), json.loads(header["__metadata__"]["at"])


def _learned(method: TorchMethod[Any], phase: Phase) -> bytes:
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    for name in phase.learns:
        part = getattr(method, name)
        state = part.state_dict() if isinstance(part, nn.Module) else {"": part.detach()}
        tensors |= {f"{name}.{k}": v for k, v in state.items()}
    return save(_apart(tensors))


def _load(method: TorchMethod[Any], phase: Phase, data: bytes) -> None:
    from safetensors.torch import load

    tensors = load(data)
    for name in phase.learns:
        part = getattr(method, name)
        part_state = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
        if isinstance(part, nn.Module):
            part.load_state_dict(part_state)
        else:
            with torch.no_grad():
                part.copy_(part_state[""])
