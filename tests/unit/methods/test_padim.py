"""PaDiM's mathematics on the fake backbone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from blemish.errors import ConfigError
from blemish.learning.observing import train
from blemish.methods.padim import Config, PaDiM
from blemish.ops.patches import patch_descriptors
from blemish.types import Batch
from tests.fakes import SIZE, FakeBackbone, arrays_of, good_image


def fit(backbone: FakeBackbone, count: int = 30, seed: int = 0, **options: object) -> tuple[PaDiM, NDArray[np.float32]]:
    method = PaDiM(Config(**options), backbone.spec(SIZE), SIZE, seed)
    batch = arrays_of(backbone, [good_image(i) for i in range(count)])
    train(method, [batch])
    return method, descriptors(method, batch)


def descriptors(method: PaDiM, batch: Batch) -> NDArray[np.float32]:
    """(B, P, C), by the method's options."""
    assert batch.pyramid is not None
    windows, length = method.config.windows, method.config.length
    found: NDArray[np.float32] = patch_descriptors(
        batch.pyramid.maps, method.spec, method.grid, windows, length, method.config.border
    )
    return found


def test_patch_scores_are_mahalanobis_distances(backbone: FakeBackbone) -> None:
    method, x = fit(backbone, level=0, sigma=0.0, ridge=0.05, top=0, border="inside")
    batch = arrays_of(backbone, [good_image(99)])
    q = descriptors(method, batch)[0].astype(np.float64)
    covariances = [np.cov(x[:, p].T.astype(np.float64)) for p in range(x.shape[1])]
    ridge = 0.05 * np.mean([np.diag(c).mean() for c in covariances])
    expected = []
    for p, covariance in enumerate(covariances):
        d = q[p] - x[:, p].mean(0, dtype=np.float64)
        expected.append(float(np.sqrt(d @ np.linalg.solve(covariance + ridge * np.eye(len(d)), d))))
    assert method(batch).score.item() == pytest.approx(max(expected), rel=1e-3)


def test_one_pass_does_not_depend_on_batches(backbone: FakeBackbone) -> None:
    whole, _ = fit(backbone)
    parts = PaDiM(Config(), backbone.spec(SIZE), SIZE)
    train(parts, [arrays_of(backbone, [good_image(i)]) for i in range(30)])
    probe = arrays_of(backbone, [good_image(99)])
    np.testing.assert_allclose(whole(probe).score, parts(probe).score, rtol=1e-3)


def test_memory_of_fit_does_not_grow_with_images(backbone: FakeBackbone) -> None:
    method = PaDiM(Config(), backbone.spec(SIZE), SIZE)
    sizes = []
    for i in range(6):
        method.observe(arrays_of(backbone, [good_image(i)]))
        sizes.append(method._statistics.outer.size + method._statistics.total.size)
    assert len(set(sizes)) == 1


def test_channels_are_drawn_by_the_seed(backbone: FakeBackbone) -> None:
    a, b, c = (fit(backbone, seed=s, channels=7)[0] for s in (0, 0, 1))
    assert len(a.drawn) == 7
    assert np.array_equal(a.drawn, b.drawn)
    assert not np.array_equal(a.drawn, c.drawn)
    assert a.whiten.shape[-1] == 7


def test_position_matters(backbone: FakeBackbone) -> None:
    """What is normal at one place is not at another: the point of a Gaussian per position."""

    def half(i: int, dark_side: int) -> np.ndarray:
        image = good_image(i).astype(int)
        columns = slice(0, SIZE[1] // 2) if dark_side == 0 else slice(SIZE[1] // 2, None)
        image[:, columns] -= 70
        return image.clip(0, 255).astype(np.uint8)

    method = PaDiM(Config(), backbone.spec(SIZE), SIZE)
    train(method, [arrays_of(backbone, [half(i, 0) for i in range(30)])])
    same, mirrored = method(arrays_of(backbone, [half(90, 0), half(90, 1)])).score
    assert mirrored > 2 * same


def kept(backbone: FakeBackbone, images: list[int], **options: object) -> PaDiM:
    method = PaDiM(Config(**options), backbone.spec(SIZE), SIZE)
    method.keeps = True
    train(method, [arrays_of(backbone, [good_image(i)]) for i in images])
    return method


@pytest.mark.parametrize(
    ("count", "unit"), [(12, [3]), (40, [0]), (12, [1, 4, 5]), (9, list(range(1, 9))), (2, [1]), (3, [0, 2])]
)
@pytest.mark.parametrize("options", [{}, {"channels": 9, "ridge": 1e-3}, {"level": 0, "ridge": 0.5}])
def test_left_out_is_as_if_never_learned(
    backbone: FakeBackbone, count: int, unit: list[int], options: dict[str, Any]
) -> None:
    method = kept(backbone, list(range(count)), **options)
    again = kept(backbone, [i for i in range(count) if i not in unit], **options)
    learned = arrays_of(backbone, [good_image(i) for i in unit])
    for judged in (learned, arrays_of(backbone, [good_image(99), good_image(unit[0])])):
        found, expected = method.left_out(learned, judged), again(judged)
        np.testing.assert_allclose(found.score, expected.score, rtol=1e-4)
        np.testing.assert_allclose(found.anomaly_map, expected.anomaly_map, rtol=1e-3)
        assert found.score.dtype == found.anomaly_map.dtype == np.float32


def test_what_was_recalled_and_more_can_be_left_out(backbone: FakeBackbone) -> None:
    method = kept(backbone, list(range(12)))
    method.recall(12)
    method.keeps = True
    train(method, [arrays_of(backbone, [good_image(i)]) for i in range(50, 56)])
    again = kept(backbone, [*range(12), *range(51, 56)])
    one = arrays_of(backbone, [good_image(50)])
    np.testing.assert_allclose(method.left_out(one, one).score, again(one).score, rtol=2e-2)


def test_one_has_to_be_left(backbone: FakeBackbone) -> None:
    method, batch = kept(backbone, [0, 1]), arrays_of(backbone, [good_image(0), good_image(1)])
    with pytest.raises(ValueError, match="2 of 2 samples"):
        method.left_out(batch, batch)


def test_what_does_not_vary_without_an_image(backbone: FakeBackbone) -> None:
    """All others are one image: without it, distances are Euclidean."""
    method, again = kept(backbone, [5, 0, 0, 0, 0]), kept(backbone, [0, 0, 0, 0])
    one = arrays_of(backbone, [good_image(5)])
    np.testing.assert_allclose(method.left_out(one, one).score, again(one).score, rtol=1e-4)


@pytest.mark.parametrize("bad", [{"ridge": 0}, {"channels": -1}, {"top": 1}, {"windows": (2,)}, {"sigma": -1}])
def test_options_out_of_range(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Config(**bad)
