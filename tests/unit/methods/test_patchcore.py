"""PatchCore's mathematics on the fake backbone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from blemish.errors import ConfigError
from blemish.learning.observing import train
from blemish.methods.patchcore import Config, PatchCore
from blemish.ops.patches import patch_descriptors
from blemish.types import Batch
from tests.fakes import SIZE, FakeBackbone, arrays_of, defective_image, good_image


def fit(backbone: FakeBackbone, count: int = 12, **options: object) -> tuple[PatchCore, NDArray[np.float32]]:
    method = PatchCore(Config(**options), backbone.spec(SIZE), SIZE)
    batches = [arrays_of(backbone, [good_image(i) for i in range(s, s + 4)]) for s in range(0, count, 4)]
    train(method, batches)
    patches = [descriptors(method, b) for b in batches]
    return method, np.concatenate(patches).reshape(-1, patches[0].shape[2])


def descriptors(method: PatchCore, batch: Batch) -> NDArray[np.float32]:
    """(B, P, C), by the method's options."""
    assert batch.pyramid is not None
    windows, length = method.config.windows, method.config.length
    found: NDArray[np.float32] = patch_descriptors(
        batch.pyramid.maps, method.spec, method.grid, windows, length, method.config.border
    )
    return found


def probe(backbone: FakeBackbone, method: PatchCore) -> tuple[Batch, NDArray[np.float32]]:
    batch = arrays_of(backbone, [good_image(77), defective_image(78)[0]])
    return batch, descriptors(method, batch)


def test_bank_is_a_share_of_the_patches_and_covers_them(backbone: FakeBackbone) -> None:
    method, patches = fit(backbone, coreset_ratio=0.25)
    bank = method.memory + method.centre
    assert len(bank) == round(0.25 * len(patches))
    gaps = cdist(patches, bank).min(1)
    assert gaps.max() == pytest.approx(float(method.radius), rel=1e-2, abs=1e-3)
    assert cdist(bank, patches).min(1).max() < 1e-3, "the bank holds real patches only"


def test_the_whole_bank_gives_zero_on_training_images(backbone: FakeBackbone) -> None:
    method, _ = fit(backbone, coreset_ratio=1.0)
    assert method(arrays_of(backbone, [good_image(3)])).score.item() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("options", [{}, {"border": "inside"}, {"length": "raw", "windows": (3,)}])
def test_score_is_the_largest_nearest_distance(backbone: FakeBackbone, options: dict[str, Any]) -> None:
    method, _ = fit(backbone, coreset_ratio=0.5, **options)
    batch, x = probe(backbone, method)
    distance = np.stack([cdist(one, method.memory + method.centre).min(1) for one in x])
    np.testing.assert_allclose(method(batch).score, distance.max(1), rtol=1e-3, atol=1e-3)


def test_mean_of_the_top_quarter(backbone: FakeBackbone) -> None:
    method, _ = fit(backbone, top=0.25)
    batch, x = probe(backbone, method)
    distance = np.stack([cdist(one, method.memory + method.centre).min(1) for one in x])
    np.testing.assert_allclose(method(batch).score, np.sort(distance)[:, -3:].mean(1), rtol=1e-3, atol=1e-3)


def test_reweighting_is_equation_7(backbone: FakeBackbone) -> None:
    method, _ = fit(backbone, neighbours=5, coreset_ratio=0.5)
    plain, _ = fit(backbone, neighbours=1, coreset_ratio=0.5)
    batch, x = probe(backbone, method)
    bank = (method.memory + method.centre).astype(np.float64)
    for i in range(2):
        distance = cdist(x[i], bank)
        worst = int(distance.min(1).argmax())
        star = int(distance[worst].argmin())
        around = cdist(bank[star : star + 1], bank)[0].argsort()[:5]
        weight = 1 - np.exp(distance[worst, star]) / np.exp(distance[worst, around]).sum()
        expected = float(weight * distance[worst, star])
        assert method(batch).score[i].item() == pytest.approx(expected, rel=1e-2)
        assert method(batch).score[i] < plain(batch).score[i]
    np.testing.assert_array_equal(method(batch).anomaly_map, plain(batch).anomaly_map)


def test_a_small_pool_is_condensed_and_still_covers(backbone: FakeBackbone) -> None:
    small, patches = fit(backbone, count=40, coreset_ratio=0.05, bank=16, pool=96)
    whole, _ = fit(backbone, count=40, coreset_ratio=0.05, bank=16)
    assert len(small.memory) == len(whole.memory) == 16
    gaps = cdist(patches, small.memory + small.centre).min(1)
    assert gaps.max() <= float(small.radius) * 1.001
    assert float(small.radius) > float(whole.radius)


def test_pool_bounds_what_fit_holds(backbone: FakeBackbone) -> None:
    method = PatchCore(Config(bank=16, pool=96), backbone.spec(SIZE), SIZE)
    for i in range(40):
        method.observe(arrays_of(backbone, [good_image(i)]))
        assert sum(map(len, method._pool.parts)) <= 96


def kept(backbone: FakeBackbone, images: list[int], **options: object) -> PatchCore:
    method = PatchCore(Config(**options), backbone.spec(SIZE), SIZE)
    method.keeps = True
    train(method, [one(backbone, [i]) for i in images])
    return method


def one(backbone: FakeBackbone, images: list[int]) -> Batch:
    return replace(arrays_of(backbone, [good_image(i) for i in images]), ids=tuple(map(str, images)))


@pytest.mark.parametrize("unit", [[3], [0, 4, 5]])
@pytest.mark.parametrize("neighbours", [1, 4])
def test_left_out_of_a_whole_bank_is_as_if_never_learned(
    backbone: FakeBackbone, unit: list[int], neighbours: int
) -> None:
    options = {"coreset_ratio": 1.0, "neighbours": neighbours}
    method = kept(backbone, list(range(8)), **options)
    again = kept(backbone, [i for i in range(8) if i not in unit], **options)
    learned = one(backbone, unit)
    for judged in (learned, one(backbone, [77])):
        found, expected = method.left_out(learned, judged), again(judged)
        np.testing.assert_allclose(found.score, expected.score, rtol=1e-4)
        np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, rtol=1e-3)


def test_left_out_of_a_coreset_is_nearly_as_if_never_learned(backbone: FakeBackbone) -> None:
    """Within a third or so of what scores of good images vary by; learned images score far lower."""
    images = list(range(10))
    method = kept(backbone, images, coreset_ratio=0.25, level=0)
    probes = [one(backbone, [i]) for i in images]
    found, seen = (
        np.concatenate([p.score for p in each])
        for each in ((method.left_out(p, p) for p in probes), (method(p) for p in probes))
    )
    anew = np.array(
        [kept(backbone, [j for j in images if j != i], coreset_ratio=0.25, level=0)(probes[i]).score[0] for i in images]
    )
    assert np.abs(found - anew).mean() < 0.4 * anew.std()
    assert np.corrcoef(found.argsort().argsort(), anew.argsort().argsort())[0, 1] > 0.8
    assert np.abs(seen - anew).mean() > anew.std()


def test_nothing_is_left_out_of_a_condensed_pool(backbone: FakeBackbone) -> None:
    assert kept(backbone, list(range(8))).keeps
    assert not kept(backbone, list(range(40)), coreset_ratio=0.05, bank=16, pool=96).keeps


@pytest.mark.parametrize(
    "bad",
    [
        {"coreset_ratio": 0},
        {"coreset_ratio": 1.1},
        {"bank": 0},
        {"pool": 10, "bank": 5},
        {"neighbours": 0},
        {"top": 1},
        {"windows": (2,)},
        {"windows": ()},
    ],
)
def test_options_out_of_range(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Config(**bad)
