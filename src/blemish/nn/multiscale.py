"""A masked autoencoder of segments at two scales: all of a signal, and one short run of it.

Zhou et al., Multi-scale Masked Autoencoder for Electrocardiogram Anomaly Detection, 2025 (MMAE-ECG). Segments are
tokens; those that are visible at either scale attend to each other in one encoder, and one block repaints the hidden
ones of both. What is hidden is not handed to the encoder at all: it is chosen by index, never by a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from blemish.nn.transformer import TransformerBlock

Scales = Literal["both", "global", "local"]
SINUSOID = 0.5  # of the tables of positions at the start, which learn from there


class Pass(NamedTuple):
    """One masking: hidden segments of the whole signal; first segment of the run, and its hidden ones from there."""

    hidden: tuple[int, ...]
    start: int
    inside: tuple[int, ...]


class Indices(NamedTuple):
    """Masking passes of one shape as indices; P passes, a visible and h hidden places each.

    segments, positions   (P * a,) of visible tokens: which segment, which row of the tables of positions
    slots                 (P * places,) where each place's token lies among a visible ones and, behind, the mask token
    places                (places * P,) rows of the tables of positions
    hidden                (P * h,) hidden places among the P * places
    targets               (P * h,) their segments
    inner                 (P * h,) True where a place is one of the run
    """

    passes: int
    segments: Tensor
    positions: Tensor
    slots: Tensor
    places: Tensor
    hidden: Tensor
    targets: Tensor
    inner: Tensor


def indices(passes: Sequence[Pass], total: int, local: int, *, scales: Scales, own: bool) -> Indices:
    """`Indices` of passes with equally many hidden segments; `own`: places in the run have positions of their own."""
    lists: dict[str, list[int]] = {name: [] for name in Indices._fields[1:]}
    for number, one in enumerate(passes):
        outer = [] if scales == "local" else list(range(total))
        inner = [] if scales == "global" else [one.start + j for j in range(local)]
        segments = outer + inner
        rows = outer + [total + j if own else one.start + j for j in range(len(inner))]
        unseen = ({*one.hidden} if outer else set()) | {len(outer) + j for j in one.inside if inner}
        visible = [place for place in range(len(segments)) if place not in unseen]
        slot = {place: k for k, place in enumerate(visible)}
        lists["segments"] += [segments[place] for place in visible]
        lists["positions"] += [rows[place] for place in visible]
        lists["slots"] += [number * (len(visible) + 1) + slot.get(p, len(visible)) for p in range(len(segments))]
        lists["places"] += rows
        lists["hidden"] += [number * len(segments) + place for place in sorted(unseen)]
        lists["targets"] += [segments[place] for place in sorted(unseen)]
        lists["inner"] += [place >= len(outer) for place in sorted(unseen)]
    return Indices(len(passes), **{name: torch.tensor(values) for name, values in lists.items()})


def sinusoids(first: int, count: int, width: int) -> Tensor:
    """(count, width) positions from `first` on, as in Vaswani et al. 2017."""
    at = torch.arange(first, first + count)[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
    return torch.stack([at.sin(), at.cos()], 2).flatten(1)[:, :width]


class MultiScaleAutoencoder(nn.Module):
    """Segments (B, T, K * S) -> repainted hidden ones, (B, P * h, K * S) in the order of `Indices.targets`.

    Args:
        values: K * S, numbers of one segment.
        total, local: T segments of the signal, and of a run.
        width, depth, heads, ratio: of the blocks.
    """

    def __init__(self, values: int, total: int, local: int, *, width: int, depth: int, heads: int, ratio: int) -> None:
        super().__init__()
        self.embed = nn.Linear(values, width)
        # the run's rows go on where the signal's end, so that no two places start alike
        self.position = nn.Parameter(SINUSOID * sinusoids(0, total + local, width))
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, ratio) for _ in range(depth))
        self.seen = nn.LayerNorm(width)
        self.widen = nn.Linear(width, width)
        self.unseen = nn.Parameter(torch.randn(width) * 0.02)
        self.repaint_position = nn.Parameter(SINUSOID * sinusoids(0, total + local, width))
        self.repaint = TransformerBlock(width, heads, ratio)
        self.done = nn.LayerNorm(width)
        self.head = nn.Linear(width, values)

    def forward(self, segments: Tensor, at: Indices) -> Tensor:
        width = self.unseen.shape[0]
        visible = self.embed(segments.index_select(1, at.segments)) + self.position.index_select(0, at.positions)
        z = visible.reshape(-1, len(at.segments) // at.passes, width)  # (B * P, a, d)
        for block in self.blocks:
            z = block(z)
        z = self.widen(self.seen(z))
        z = torch.cat([z, self.unseen.expand_as(z[:, :1])], 1).reshape(-1, len(at.segments) + at.passes, width)
        z = z.index_select(1, at.slots) + self.repaint_position.index_select(0, at.places)
        z = self.done(self.repaint(z.reshape(-1, len(at.slots) // at.passes, width)))
        z = z.reshape(-1, len(at.slots), width).index_select(1, at.hidden)
        return self.head(z)  # type: ignore[no-any-return]


def interleaved(total: int, theta: float) -> list[tuple[int, ...]]:
    """Masks that together hide each of `total` segments: every m-th, m = round(1 / theta); beyond theta = 0.5 those
    that stay visible are interleaved."""
    step = max(round(1 / theta) if theta <= 0.5 else round(1 / (1 - theta)), 2)
    masks = [tuple(t for t in range(total) if (t % step == j) == (theta <= 0.5)) for j in range(step)]
    return [mask for mask in masks if 0 < len(mask) < total]


def tiles(total: int, local: int) -> list[int]:
    """Starts of runs that cover the signal; the last one ends with it."""
    return [*range(0, total - local, local), total - local]


def drawn(total: int, local: int, theta: float, generator: torch.Generator) -> Pass:
    """One masking at random, both scales independent of each other."""
    hidden = torch.randperm(total, generator=generator)[: share(total, theta)]
    start = int(torch.randint(total - local + 1, (1,), generator=generator))
    inside = torch.randperm(local, generator=generator)[: share(local, theta)]
    return Pass(tuple(sorted(hidden.tolist())), start, tuple(sorted(inside.tolist())))


def share(count: int, theta: float) -> int:
    """How many of so many segments are hidden: at least one, and never all."""
    return min(max(round(theta * count), 1), count - 1)


def guarded(one: Pass, local: int) -> Pass:
    """The same with each segment that is hidden at one scale hidden at the other too, so that none can be copied."""
    inside = {*one.inside} | {t - one.start for t in one.hidden if one.start <= t < one.start + local}
    hidden = {*one.hidden} | {one.start + j for j in inside}
    return Pass(tuple(sorted(hidden)), one.start, tuple(sorted(inside)))
