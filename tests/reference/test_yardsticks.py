"""PatchCore and PaDiM against their arithmetic in the field's libraries, written anew from the papers and their code.

Where the settings are the same, so are the scores: means over 3 x 3 cells with zeros around the map, deeper levels
brought to the finest grid by bilinear interpolation, Euclidean distance to the nearest of all patches, re-weighted over
nine neighbours; and a Gaussian at each place with .01 on the covariance's diagonal. The score is the maximum.
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'blemish[train]'")

from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from blemish.learning.observing import train  # noqa: E402
from blemish.methods import padim, patchcore  # noqa: E402
from blemish.types import Batch, FeatureSpec, Pyramid  # noqa: E402

SIZE = (48, 64)
SPEC = FeatureSpec((0, 1), (5, 7), ((6, 8), (3, 4)))
ONE = FeatureSpec((0,), (5,), ((6, 8),))


def batch(count: int, seed: int, spec: FeatureSpec = SPEC) -> Batch:
    generator = np.random.default_rng(seed)
    shapes = zip(spec.channels, spec.grids, strict=True)
    maps = tuple(generator.normal(1, 1 + seed % 2, (count, c, *grid)).astype(np.float32) for c, grid in shapes)
    return Batch(size=SIZE, pyramid=Pyramid(maps), ids=tuple(map(str, range(count))))


def embedding(given: Batch) -> Tensor:
    """(B, P, C): every level pooled as `AvgPool2d(3, 1, 1)` does, on the finest grid."""
    assert given.pyramid is not None
    pooled = [F.avg_pool2d(torch.from_numpy(x), 3, 1, 1) for x in given.pyramid.maps]
    fine = pooled[0].shape[-2:]
    return torch.cat([F.interpolate(x, fine, mode="bilinear") for x in pooled], 1).flatten(2).transpose(1, 2)


@pytest.mark.parametrize("neighbours", [1, 9])
def test_patchcore_is_the_field_s(neighbours: int) -> None:
    options = {"windows": (3,), "length": "raw", "level": 0, "top": 0.0, "coreset_ratio": 1.0}
    method = patchcore.PatchCore(patchcore.Config(neighbours=neighbours, **options), SPEC, SIZE)
    learned, probes = batch(6, 0), batch(4, 1)
    train(method, [learned])
    bank = embedding(learned).flatten(0, 1).double()
    expected = []
    for x in embedding(probes).double():
        apart = torch.cdist(x, bank)
        nearest, index = apart.min(1)
        worst = int(nearest.argmax())
        score = nearest[worst]
        if neighbours > 1:
            around = torch.cdist(bank[index[worst]][None], bank)[0].topk(neighbours, largest=False).indices
            score = score * (1 - torch.softmax(torch.cdist(x[worst][None], bank[around])[0], 0)[0])
        expected.append(float(score))
    np.testing.assert_allclose(method(probes).score, expected, rtol=1e-4)


def test_padim_is_the_field_s() -> None:
    learned, probes = batch(40, 0, ONE), batch(4, 1, ONE)
    x, q = (torch.from_numpy(b.pyramid.maps[0]).flatten(2).permute(2, 0, 1).double() for b in (learned, probes))
    covariance = torch.stack([torch.cov(place.T) for place in x])
    added = 0.01
    mean = x.mean(1, keepdim=True)
    inverse = torch.linalg.inv(covariance + added * torch.eye(5))
    expected = ((q - mean) @ inverse * (q - mean)).sum(2).sqrt().amax(0)
    ridge = added / float(covariance.diagonal(dim1=1, dim2=2).mean())
    config = padim.Config(windows=(1,), length="raw", top=0.0, ridge=ridge)
    method = padim.PaDiM(config, ONE, SIZE)
    train(method, [learned])
    np.testing.assert_allclose(method(probes).score, expected, rtol=1e-3)
