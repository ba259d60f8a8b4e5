"""What a soft mask over features is worth where the binary mask leaves a part of the flaw uncovered.

    python benchmarks/attenuation.py [--page docs/results/attenuation.md]

A drawn cloth (`worlds.weave`) whose flaws have clean twins, so that what a repaint should have come to is known. One
base network a seed; behind it, for each share of the patches that the mask hides, the gates of variants A and B learn
anew. The oracle gate is shut where the flaw is and open elsewhere: the most that the mechanism can give. It is the only
row that sees a mask of a flaw.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from worlds.weave import FLAWS, weave

from blemish.evaluation.metrics.ranking import auroc
from blemish.learning import training
from blemish.learning.options import FitOptions
from blemish.learning.plan import load_backbone
from blemish.methods.base import Phase
from blemish.methods.fader import Config, FADeR, Look
from blemish.nn.similarity import msgms_map
from blemish.types import Batch, Pyramid

SIZE = (64, 64)
SHARES = (0.4, 0.2, 0.1, 0.05)  # of the patches that are hidden
SEEDS = (0, 1, 2)
TRAIN, TEST = 96, 60
CONSTANT = 0.3
OPTIONS: dict[str, Any] = {
    **{"side": 64, "patch": 4, "batch": 8, "sigma": 2.0, "steps": 200, "rate": 1e-2, "recovery": 0},
    **{"width": 8, "until": "steps", "map": "msgms"},
}
ROWS = ("base, mask only", "variant A", "variant B", f"constant gate {CONSTANT}", "oracle gate")


class GateAlone(FADeR):
    """A method whose U-Net is there already."""

    @classmethod
    def behind(cls, base: FADeR, **options: Any) -> GateAlone:
        """The same base, and a gate that learns under other options."""
        method = cls(replace(base.config, **options), base.spec, base.size, base.seed)
        method.unet.load_state_dict(base.unet.state_dict())
        return method

    def phases(self) -> tuple[Phase, ...]:
        return tuple(phase for phase in super().phases() if phase.name == "gate")


class Drawn:
    """Images in memory as training samples."""

    def __init__(self, backbone: Any, images: Sequence[np.ndarray]) -> None:
        stack = np.stack(images)
        parts = [backbone.maps(stack[at : at + 16]) for at in range(0, len(stack), 16)]
        self.levels = tuple(torch.from_numpy(np.concatenate(level)) for level in zip(*parts, strict=True))
        self.x = torch.from_numpy(backbone.normalised(stack))

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Sequence[int], generator: torch.Generator | None = None) -> Batch:
        at = torch.tensor(list(indices))
        maps = tuple(level[at] for level in self.levels)
        return Batch(size=SIZE, pyramid=Pyramid(maps), x=self.x[at], ids=tuple(map(str, indices)))


class Cloths:
    """What is learned from, and flaws with their clean twins, of one seed."""

    def __init__(self, backbone: Any, seed: int) -> None:
        def draw(number: int, kind: str = "good") -> tuple[np.ndarray, np.ndarray]:
            return weave(np.random.default_rng([seed, number]), SIZE, kind)

        self.good = Drawn(backbone, [draw(i)[0] for i in range(TRAIN)])
        numbers = [(TRAIN + i, FLAWS[i % len(FLAWS)]) for i in range(TEST)]
        flawed = [draw(i, kind) for i, kind in numbers]
        self.wrong = torch.from_numpy(np.stack([mask for _, mask in flawed]))[:, None].float()
        every = range(TEST)
        self.bad = Drawn(backbone, [image for image, _ in flawed]).batch(every)
        self.clean = Drawn(backbone, [draw(i)[0] for i, _ in numbers]).batch(every)


def figures(method: FADeR, cloths: Cloths, look: Look) -> list[float]:
    """Pixel AUROC on flawed images, error to the clean twin inside flaws and outside, gate inside and outside."""
    found = method.scores.level_maps([msgms_map(look.image, look.repaint)])
    off = (look.repaint - method.image(cloths.clean)).square().mean(1, keepdim=True)
    inside, outside = cloths.wrong, 1 - cloths.wrong
    gate = torch.ones(1, 1, *method.grid) if look.gate is None else look.gate
    gates = F.interpolate(gate.expand(TEST, -1, -1, -1), size=SIZE, mode="nearest")
    labels = inside.flatten().numpy().astype(int)
    return [
        auroc(labels, found.flatten().numpy()),
        *(float((off * where).sum() / where.sum()) for where in (inside, outside)),
        *(float((gates * where).sum() / where.sum()) for where in (inside, outside)),
    ]


@torch.no_grad()
def looked(method: FADeR, batch: Batch, gate: Tensor | float | None) -> Look:
    """As with a gate of one's own."""
    image, mask = method.image(batch), method.mask(batch)
    maps = method.encoded(image, mask)
    if isinstance(gate, float):
        gate = torch.full((1, 1, *method.grid), gate)
    return Look(image, mask, gate, method.painted(maps, gate))


def measured(backbone: Any, seed: int) -> tuple[np.ndarray, list[float]]:
    """(shares, rows, figures) of one seed, and which share of the flaws each mask covers."""
    cloths = Cloths(backbone, seed)
    base = FADeR(Config(**OPTIONS, gate="off"), backbone.spec(SIZE), SIZE, seed)
    training.learn(base, cloths.good)
    table, covered = [], []
    for share in SHARES:
        base.config = replace(base.config, share=share)
        gated = {}
        for variant in ("A", "B"):
            gated[variant] = GateAlone.behind(base, share=share, gate="learned", variant=variant)
            training.learn(gated[variant], cloths.good)
        with torch.no_grad():
            a, b = (gated[v].look(cloths.bad) for v in ("A", "B"))
        oracle = 1 - F.adaptive_max_pool2d(cloths.wrong, base.grid)
        looks = [looked(base, cloths.bad, None), a, b, *(looked(base, cloths.bad, g) for g in (CONSTANT, oracle))]
        mask = F.interpolate(looks[0].mask, size=SIZE, mode="nearest")
        covered.append(float((mask * cloths.wrong).sum() / cloths.wrong.sum()))
        table.append([figures(base, cloths, look) for look in looks])
        print(
            seed, share, f"covered {covered[-1]:.2f}", *(f"{row[0]:.3f} {row[1]:.4f}" for row in table[-1]), flush=True
        )
    return np.array(table), covered


def page(tables: np.ndarray, covered: np.ndarray, seconds: float) -> str:
    """The page of (seeds, shares, rows, figures)."""
    mean, spread = tables.mean(0), tables.std(0, ddof=1)
    gain = tables[:, :, 2, 0] - tables[:, :, 0, 0]
    lines = [
        "# Where the mask leaves a flaw uncovered",
        "",
        f"Made by `python benchmarks/attenuation.py --page docs/results/attenuation.md`: drawn cloth of {SIZE[0]} x {SIZE[1]} pixels,",
        f"{TRAIN} good images to learn from, {TEST} with a flaw (blobs, lines, displaced boxes: none of them what the gate has",
        f"learned from), mean and standard deviation over {len(SEEDS)} seeds; one base network a seed, trained with a share of",
        f"{Config().share}, {seconds:.0f} s of processor time in all. Error: mean squared difference of the repaint to the",
        "clean twin, times 1000. The oracle gate knows where the flaw is: it is the ceiling of the mechanism.",
        "",
        "| share hidden | of flaws covered | gate | pixel AUROC | error inside flaws | outside | gate inside / outside |",
        "|---|---|---|---|---|---|---|",
    ]
    for i, share in enumerate(SHARES):
        for j, name in enumerate(ROWS):
            head = f"| {share} | {covered[:, i].mean():.2f} |" if j == 0 else "| | |"
            m, s = mean[i, j], spread[i, j]
            errors = " | ".join(f"{1000 * m[k]:.2f} ± {1000 * s[k]:.2f}" for k in (1, 2))
            gates = "–" if j == 0 else f"{m[3]:.2f} / {m[4]:.2f}"
            lines.append(f"{head} {name} | {m[0]:.3f} ± {s[0]:.3f} | {errors} | {gates} |")
    gains = ", ".join(f"{g.mean():+.3f} ± {g.std(ddof=1):.3f}" for g in gain.T)
    lines += [
        "",
        f"Gain of variant B over the base in pixel AUROC, from a share of {SHARES[0]} to {SHARES[-1]}: {gains}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Draw, learn, look, print; the page where asked."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    backbone = load_backbone(FitOptions(method="fader", calibration="none"))
    found = [measured(backbone, seed) for seed in SEEDS]
    text = page(np.array([f[0] for f in found]), np.array([f[1] for f in found]), time.process_time() - start)
    print(text)
    if arguments.page:
        arguments.page.parent.mkdir(parents=True, exist_ok=True)
        arguments.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
