"""What a step of training costs in bf16 against float32: writes docs/results/training_format.md.

    python benchmarks/training_format.py [--methods rd,uniad] [--rounds 3] [--steps 5]

Each method that takes steps, at its own options, on drawn scenes at 256 px behind the default backbone (its features are
made before; signals are drawn). A round trains a few steps in one format and as many in the other, from the same
weights on the same samples; the next round starts with the other format. Figures are processor time, so that other
programs on the machine count little. One thread, and all cores as `fit` trains.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # a thread that waits costs nothing

import numpy as np
import torch

from blemish import methods
from blemish.data.synthesis.makers import MAKERS
from blemish.data.synthesis.scenes import procedural_scene
from blemish.learning import training
from blemish.learning.backbones.timm_net import load
from blemish.learning.sources.image import SCENE
from blemish.methods.torch_base import TorchMethod
from blemish.system import cores
from blemish.types import Batch, FeatureSpec, Needs, Pyramid

IMAGES = 16
LEADS, LENGTH = 12, 1200  # a window of a usual ECG: 9.6 s at 125 Hz
FEATURES = ("avx2", "avx512_f", "avx512_bf16", "amx_tile", "amx_bf16")  # of a processor, that decide what bf16 costs
Times = dict[str, list[float]]  # seconds of steps by phase
Rows = dict[tuple[str, str], list[tuple[float, float]]]  # by method and phase: ms in float32 and ratio, of each threads


class Images:
    """Drawn scenes with features, and one damaged twin each, all made beforehand."""

    def __init__(self, needs: Needs) -> None:
        self.backbone = load("efficientnet_lite0", strides=needs.strides)
        images = [procedural_scene(SCENE, np.random.default_rng(i)) for i in range(IMAGES)]
        self.whole = self._batch(images)
        if needs.twin:
            maker = MAKERS[needs.twin](())
            twins = [maker(image, np.random.default_rng(i)) for i, image in enumerate(images)]
            mask = torch.from_numpy(np.stack([mask for _, mask in twins]))
            twin = self._batch([image for image, _ in twins]).pyramid
            self.whole = replace(self.whole, twin=twin, mask=mask)

    def _batch(self, images: list[Any]) -> Batch:
        stack = torch.from_numpy(np.stack(images))
        with torch.no_grad():
            return Batch(SCENE, self.backbone.pyramid(stack), self.backbone.normalise(stack))

    @property
    def spec(self) -> FeatureSpec:
        return self.backbone.spec(SCENE)

    def __len__(self) -> int:
        return IMAGES

    def batch(self, indices: Sequence[int], generator: torch.Generator | None = None) -> Batch:
        """These images; with a generator, with their twins."""
        at, whole = torch.tensor(list(indices)), self.whole
        assert whole.pyramid is not None
        assert whole.x is not None
        pyramid, x = _chosen(whole.pyramid, at), whole.x[at]
        if generator is None or whole.twin is None or whole.mask is None:
            return Batch(SCENE, pyramid, x, tuple(map(str, indices)))
        return Batch(SCENE, pyramid, x, tuple(map(str, indices)), _chosen(whole.twin, at), whole.mask[at])


class Signals:
    """Smooth noise in as many leads as an ECG has."""

    spec = FeatureSpec((), (), (), inputs=LEADS)

    def __init__(self, count: int = 64) -> None:
        drawn = np.random.default_rng(0).normal(0, 1, (count, LEADS, LENGTH))
        self.x = torch.from_numpy(np.cumsum(drawn, 2) - np.cumsum(drawn, 2).mean(2, keepdims=True)).float() / 20

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Sequence[int], generator: torch.Generator | None = None) -> Batch:
        """These windows."""
        return Batch((LENGTH,), None, self.x[torch.tensor(list(indices))], tuple(map(str, indices)))


def _chosen(pyramid: Pyramid, at: torch.Tensor) -> Pyramid:
    return Pyramid(tuple(level[at] for level in pyramid.maps))


def made(name: str, samples: Any, steps: int) -> TorchMethod[Any]:
    """The method at its own options, but for the number of steps of each phase."""
    cls: Any = methods.get(name)
    method: TorchMethod[Any] = cls(cls.Config(), samples.spec, SCENE if isinstance(samples, Images) else (LENGTH,), 0)
    phases = tuple(replace(phase, steps=steps) for phase in method.phases())
    method.__dict__["phases"] = lambda: phases
    return method


def timed(method: TorchMethod[Any], samples: Any, *, bf16: bool) -> Times:
    """Processor seconds of each step but the first of each phase."""
    found: Times = {}

    def track(steps: Iterable[Any], label: str, total: int | None) -> Iterator[Any]:
        taken = found.setdefault(label.removeprefix("train: "), [])
        for batch in steps:
            start = time.process_time()
            try:
                yield batch
            finally:  # the last step is not asked for another one
                taken.append(time.process_time() - start)

    training.learn(method, samples, plan=training.Plan(bf16=bf16, track=track))
    return {phase: taken[1:] for phase, taken in found.items()}


def compared(name: str, steps: int, rounds: int) -> dict[str, tuple[float, float]]:
    """Of each phase: milliseconds of a step in float32, and how many times that it takes in bf16."""
    cls = methods.get(name)
    samples = Signals() if cls.needs.source == "signal" else Images(cls.wants(cls.Config()))
    ratios: Times = {}
    plain: Times = {}
    for number in range(rounds + 1):
        times = {bf16: timed(made(name, samples, steps), samples, bf16=bf16) for bf16 in _order(number)}
        for phase in times[False] if number else ():  # the first round warms up
            exact, short = (median(times[bf16][phase]) for bf16 in (False, True))
            plain.setdefault(phase, []).append(1000 * exact)
            ratios.setdefault(phase, []).append(short / exact)
    return {phase: (median(plain[phase]), median(ratios[phase])) for phase in plain}


def _order(number: int) -> tuple[bool, bool]:
    return (False, True) if number % 2 else (True, False)


def trained() -> list[str]:
    """The methods that take steps by gradient."""
    return [name for name in methods.names() if methods.get(name).fitted_modules]


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", default=",".join(trained()))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("docs/results/training_format.md"))
    arguments = parser.parse_args()
    rows: Rows = {}
    load: list[float] = []
    threads = tuple(dict.fromkeys((1, cores())))
    for name in arguments.methods.split(","):
        for count in threads:
            torch.set_num_threads(count)
            for phase, found in compared(name, arguments.steps, arguments.rounds).items():
                rows.setdefault((name, phase), []).append(found)
                print(f"{name}, {phase}, {count} threads: {found[0]:.0f} ms, x {found[1]:.2f}", flush=True)
            load.append(os.getloadavg()[0])
    text = page(rows, threads, arguments.rounds, arguments.steps, (min(load), max(load)))
    arguments.out.write_text(text, encoding="utf-8")


def page(rows: Rows, threads: Sequence[int], rounds: int, steps: int, load: tuple[float, float]) -> str:
    """The page of these figures; `load` is the least and the largest number of processes that wanted a core."""
    known = torch.cpu.get_capabilities()
    present = ", ".join(name for name in FEATURES if known.get(name)) or "none of " + ", ".join(FEATURES)
    columns = " | ".join(f"float32, {n} thread{'s' * (n > 1)}: CPU ms a step | bf16 / float32" for n in threads)
    lines = [
        "# Number format of training",
        "",
        "**Training is float32 on every processor, unless `precision` is `bf16`.** Networks that learn then compute in bf16;",
        "losses, statistics, distances and frozen networks stay in float32. `auto` means float32 here, whatever the graph",
        "runs in afterwards, so the format does not depend on the processor. What a phase was trained in stands in",
        "`model.json`, in the line of `fit` and in the report.",
        "",
        "Made by `python benchmarks/training_format.py`: methods at their own options, drawn scenes at 256 px behind",
        f"efficientnet_lite0 (mmae_ecg: {LEADS} leads of {LENGTH:,} samples). Processor time of a step, median of {rounds} rounds of {steps - 1} steps in either",
        "format, interleaved, the first round and the first step of each left out. A ratio above 1: bf16 takes longer.",
        "",
        f"Processor: {known.get('cpu_name', 'not named')}, with {present}; {cores()} cores; {load[0]:.0f} to {load[1]:.0f} processes wanted them meanwhile.",
        f"PyTorch {torch.__version__.split('+')[0]}.",
        "",
        *(f"- {_verdict(rows, i, n)}" for i, n in enumerate(threads)),
        "",
        f"| method | phase | {columns} |",
        "|---|---|" + "---|---|" * len(threads),
    ]
    for (name, phase), found in rows.items():
        figures = " | ".join(f"{milliseconds:.0f} | {ratio:.2f}" for milliseconds, ratio in found)
        lines.append(f"| {name} | {phase} | {figures} |")
    lines += [
        "",
        "On one thread most networks gain from bf16; the masked attention of uniad and onenip does not. On several, the gradients",
        "of convolutions in bf16 take several times as long where other programs use the cores too, since their threads wait",
        "busily for each other; those in float32 do not. `precision=bf16` is for a processor with nothing else to do, after a",
        "look at this table made there.",
        "",
        "protoot learns by transport in float64 and takes no steps by gradient.",
    ]
    return "\n".join(lines) + "\n"


def _verdict(rows: Rows, column: int, threads: int) -> str:
    ratios = [found[column][1] for found in rows.values()]
    cores_used = "One thread" if threads == 1 else f"All {threads} cores, as `fit` trains"
    return (
        f"{cores_used}: bf16 takes longer in {sum(r > 1 for r in ratios)} of {len(ratios)} phases, "
        f"{min(ratios):.2f} to {max(ratios):.2f} times as long, in the middle {median(ratios):.2f}."
    )


if __name__ == "__main__":
    main()
