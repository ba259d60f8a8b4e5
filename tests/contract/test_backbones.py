"""Every method of images learns on every family of backbones: transformers whose levels have one grid, and pyramids.

Random networks that differ from the real ones in width and depth alone; their weights come from a file, as a user's do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blemish import Detector, methods
from blemish.config import build
from blemish.data.image.preprocess import parse_image_size, resolve
from blemish.inspection.modelfile import load as load_model
from blemish.learning import run
from blemish.learning.fit import fit
from blemish.learning.options import FitOptions
from blemish.learning.sources import image as images
from tests import tiny_networks
from tests.fakes import defective_image, write_images
from tests.tiny import OF_IMAGES, shortened

STEPS = 2
IMAGES = 6
SIDES = (70, 98)  # multiples of 14, and of nothing else that a network asks for


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("backbones")


def pairs() -> list[tuple[str, str]]:
    """Methods and networks: the yardsticks on every network, the others in turn on a transformer and on a pyramid."""
    names = tiny_networks.NAMES
    return [
        (method, network)
        for number, method in enumerate(OF_IMAGES)
        for network in (names if method in ("padim", "patchcore", "rd") else names[number % 2 :: 2])
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "network"), pairs())
def test_every_method_learns_on_every_family(
    method: str, network: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learned, certified (`fit` raises where graph and reference disagree), saved, opened again without the network,
    and a picture with a spot inspected."""
    weights = tiny_networks.written(folder, network)
    records = write_images(folder / "good", IMAGES, SIDES)
    monkeypatch.setattr(run, "scenes", lambda size, **more: images.scenes(size, 8, **more))
    chosen = {
        "method": method,
        "backbone": network,
        "weights": str(weights),
        "image_size": f"{SIDES[1]}x{SIDES[0]}",
        "calibration": "none",
        "options": shortened(methods.get(method).brief, STEPS),
    }
    model = fit(records, build(FitOptions, chosen))
    needs = methods.get(method).wants(build(methods.get(method).Config, chosen["options"]))
    assert len(model.meta.backbone.layers) == len(needs.strides)
    assert model.parity["engines"]["openvino-f32"]["map"] <= model.parity["limit"]["map"]
    stride = 14 if "patch14" in network else 16 if "patch16" in network else max(needs.strides)
    size = parse_image_size(chosen["image_size"])
    assert tuple(model.meta.preprocess["size"]) == resolve(size, SIDES[1] / SIDES[0], stride)
    place = folder / f"{network}.{method}"
    Detector.from_model(model).save(place)
    detector = Detector.load(place)
    picture, mask = defective_image(1, SIDES)
    result = detector.inspect(picture)
    assert np.isfinite(result.score)
    assert result.anomaly_map.shape == mask.shape
    assert np.isfinite(result.anomaly_map).all()
    again = load_model(place).meta.backbone
    assert len(again.weights_sha256) == 64
    assert again == model.meta.backbone


def test_two_networks_of_different_grids_are_one_backbone(folder: Path) -> None:
    """A pyramid and a transformer: sides are multiples of both strides, positions fit."""
    from blemish.inspection.engines import open_engine
    from blemish.learning.backbones.pair import PairBackbone
    from blemish.learning.backbones.timm_net import load

    pair = PairBackbone(
        *(
            load(name, weights=tiny_networks.written(folder, name), strides=(8, 16))
            for name in ("convnext_tinytest", "vit_tinytest_patch14_reg4_dinov2")
        )
    )
    assert pair.stride == 112
    picture = np.random.default_rng(0).integers(0, 256, (1, 112, 224, 3), dtype=np.uint8)
    for drawn, reference in zip(open_engine(pair.graph((112, 224)))(picture), pair.maps(picture), strict=True):
        assert np.allclose(drawn, reference, atol=1e-5 * np.ptp(reference))
    assert pair.digest.count("+") == 1
    assert pair.licence == "apache-2.0, as timm says of convnext_tinytest.random + " + (
        "apache-2.0, as timm says of vit_tinytest_patch14_reg4_dinov2.random"
    )
