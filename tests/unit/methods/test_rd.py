"""Reverse distillation: shapes, the way through the embedding, and what it finds in a drawn world."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.worlds import stripes
from blemish.errors import ConfigError
from blemish.evaluation.metrics import auroc
from blemish.methods.rd import Config, ReverseDistillation
from blemish.nn.reverse import OneClassEmbedding, embedding_stride, halvings, restoring_maps, restoring_terms
from blemish.types import Batch, FeatureSpec, Pyramid
from tests.fakes import SIZE, FakeBackbone, batch_of, good_image, learn

SMALL: dict[str, Any] = {"embedding": 16, "widths": (8, 12, 16), "joined": 16}


def spec_of(channels: tuple[int, ...], grids: tuple[tuple[int, int], ...]) -> FeatureSpec:
    return FeatureSpec(tuple(range(len(channels))), channels, grids)


def features(spec: FeatureSpec, count: int = 2, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(count, c, *g, generator=generator) for c, g in zip(spec.channels, spec.grids, strict=True))


@pytest.mark.parametrize(
    ("size", "channels", "grids", "inner"),
    [
        ((256, 256), (24, 40, 112), ((64, 64), (32, 32), (16, 16)), (8, 8)),  # stride 2 behind the coarsest
        ((256, 256), (40, 112, 320), ((32, 32), (16, 16), (8, 8)), (8, 8)),
        ((224, 224), (24, 40, 112), ((56, 56), (28, 28), (14, 14)), (7, 7)),
        ((256, 192), (5, 7), ((32, 24), (16, 12)), (8, 6)),
        ((96, 64), (6,), ((6, 4),), (3, 2)),
        ((224, 320), (6, 9), ((28, 40), (7, 10)), (7, 10)),  # a level left out between the two
    ],
)
def test_shapes_follow_the_pyramid(
    size: tuple[int, int], channels: tuple[int, ...], grids: tuple[tuple[int, int], ...], inner: tuple[int, int]
) -> None:
    spec = spec_of(channels, grids)
    method = ReverseDistillation(Config(**SMALL), spec, size).eval()
    maps = features(spec)
    phi = method.embedding(maps)
    assert phi.shape == (2, 16, *inner)
    assert [r.shape for r in method.decoder(phi)] == [m.shape for m in maps]
    out = method.predict(Batch(size=size, pyramid=Pyramid(maps)))
    assert out.anomaly_map.shape == (2, *size)


def test_levels_are_halved_to_the_coarsest_grid() -> None:
    assert [halvings(g, (8, 8)) for g in ((64, 64), (32, 32), (16, 16), (8, 8), (4, 4))] == [3, 2, 1, 0, 0]
    block = OneClassEmbedding((4, 6, 8), ((16, 16), (8, 8), (4, 4)), 5)
    strides = [[m.stride for m in r.modules() if isinstance(m, torch.nn.Conv2d)] for r in block.reduce]
    assert strides == [[(2, 2), (2, 2)], [(2, 2)], []]
    assert embedding_stride(((64, 64), (16, 16)), (256, 256), 32) == 2
    assert embedding_stride(((32, 32), (8, 8)), (256, 256), 32) == 1


def test_the_decoder_sees_the_embedding_and_nothing_else(backbone: FakeBackbone) -> None:
    """No way around: with the embedding of another image the restored features are that image's."""
    method = ReverseDistillation(Config(**SMALL), backbone.spec(SIZE), SIZE).eval()
    a, b = (batch_of(backbone, [good_image(i)]).pyramid.maps for i in (1, 2))
    phi = method.embedding(b)
    expected = method.decoder(phi)
    method.embedding.forward = lambda _: phi  # type: ignore[method-assign]
    for got, wanted in zip(method._restored(a), expected, strict=True):
        assert torch.equal(got, wanted)


def test_loss_is_one_minus_cosine_by_position_or_whole() -> None:
    a = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])  # two positions: (1, 0) and (0, 1)
    b = torch.tensor([[[[3.0, 2.0]], [[0.0, 0.0]]]])  # (3, 0) and (2, 0)
    assert restoring_maps([a], [b])[0][0, 0].tolist() == pytest.approx([0.0, 1.0], abs=1e-5)
    assert restoring_terms([a], [b], whole=False)["restore_0"].item() == pytest.approx(0.5, abs=1e-5)
    assert restoring_terms([a], [b], whole=True)["restore_0"].item() == pytest.approx(1 - 3 / 26**0.5, abs=1e-5)


@pytest.mark.parametrize("top", [0.0, 0.1])
def test_score_is_that_of_the_highest_places_of_the_map(top: float, backbone: FakeBackbone) -> None:
    method = ReverseDistillation(Config(top=top, **SMALL), backbone.spec(SIZE), SIZE).eval()
    out = method.predict(batch_of(backbone, [good_image(1), good_image(2)]))
    every = out.anomaly_map.flatten(1).sort(1, descending=True).values
    highest = every[:, :1] if top == 0 else every[:, : round(top * every.shape[1])]
    torch.testing.assert_close(out.score, highest.mean(1), rtol=0.05 if top else 0, atol=0)


@pytest.mark.slow
def test_finds_a_blotch_on_stripes_and_restores_what_it_has_learned(backbone: FakeBackbone) -> None:
    generator = np.random.default_rng(0)
    good = [stripes(generator)[0] for _ in range(24)]
    drawn = [stripes(generator, kind="blotch", blotch=12) for _ in range(8)]
    size = (64, 64)
    method = ReverseDistillation(Config(steps=80, rate=1e-2, **SMALL), backbone.spec(size), size)
    report = learn(method, backbone, good).report[0]
    assert set(report.last) == {"restore_0", "restore_1", "restore_2"}
    assert sum(report.last.values()) < 0.3 * sum(report.first.values())
    out = method(batch_of(backbone, [image for image, _ in drawn]))
    assert auroc(np.stack([m for _, m in drawn]).ravel(), out.anomaly_map.numpy().ravel()) > 0.9
    assert out.score.min() > method(batch_of(backbone, good)).score.max()


@pytest.mark.parametrize("bad", [{"steps": 0}, {"widths": ()}, {"batch": 1}, {"rate": 0}, {"sigma": -1}, {"top": 1.5}])
def test_options_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Config(**bad)
