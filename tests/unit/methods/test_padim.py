"""PaDiM's mathematics on the fake backbone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from blemish.errors import ConfigError
from blemish.learning.observing import train
from blemish.methods.padim import Config, PaDiM
from blemish.ops.patches import patch_descriptors
from tests.fakes import SIZE, FakeBackbone, arrays_of, good_image


def fit(backbone: FakeBackbone, count: int = 30, seed: int = 0, **options: object) -> tuple[PaDiM, NDArray[np.float32]]:
    method = PaDiM(Config(**options), backbone.spec(SIZE), SIZE, seed)
    batch = arrays_of(backbone, [good_image(i) for i in range(count)])
    train(method, [batch])
    return method, patch_descriptors(batch.pyramid.maps, method.spec, method.grid, method.config.neighbourhood)


def test_patch_scores_are_mahalanobis_distances(backbone: FakeBackbone) -> None:
    method, x = fit(backbone, level=0, sigma=0.0, ridge=0.05)
    batch = arrays_of(backbone, [good_image(99)])
    q = patch_descriptors(batch.pyramid.maps, method.spec, method.grid, 3)[0].astype(np.float64)
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


@pytest.mark.parametrize("bad", [{"ridge": 0}, {"channels": -1}, {"top": 0}, {"neighbourhood": 2}, {"sigma": -1}])
def test_options_out_of_range(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Config(**bad)
