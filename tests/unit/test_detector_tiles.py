"""Pictures of high resolution are inspected in tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from blemish import Detector
from blemish.data.image.decode import read_image
from blemish.data.image.modality import Images
from blemish.data.image.preprocess import Preprocess
from blemish.data.image.reading import shown_in
from blemish.data.image.tiles import Tiling
from blemish.errors import ConfigError, DataError
from blemish.inspection.tiled import TOGETHER, Tiled
from blemish.learning.backbones.cache import FeatureCache
from blemish.learning.sources import features
from blemish.learning.sources.features import FeatureSource
from blemish.learning.sources.image import ImageSamples, files
from blemish.learning.splits import FOLDS
from blemish.system import cores
from blemish.types import Needs, Record
from tests.fakes import FakeBackbone

ASKED: dict[str, Any] = {
    "image_size": 64,
    "tiles": "64:16",
    "calibration": "split",
    "held_out": 0.4,
    "false_alarm_rate": 0.1,
    "cache": False,
}


def texture(seed: int, shape: tuple[int, int] = (128, 400), *, scratched: bool = False) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    wave = 120 + 25 * np.sin(x / 6 + rng.uniform(0, 6)) + 20 * np.sin(y / 7 + rng.uniform(0, 6))
    image = np.clip(wave + rng.normal(0, 4, shape), 0, 255).astype(np.uint8)
    if scratched:
        cv2.line(image, (300, 60), (318, 72), 240, 3)
    return image


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiled")
    for seed in range(30):
        cv2.imwrite(str(folder / f"{seed:02}.png"), texture(seed))
    return folder


@pytest.fixture(scope="module")
def detector(good: Path) -> Detector:
    return Detector("patchcore", **ASKED).fit(good)


def test_a_fine_scratch_is_found_where_it_is_and_only_in_tiles(detector: Detector, good: Path) -> None:
    result = detector.inspect(texture(100, scratched=True))
    assert result.verdict == "anomalous"
    assert result.anomaly_map.shape == (128, 400)
    peak = np.unravel_index(int(result.anomaly_map.argmax()), (128, 400))
    assert np.hypot(peak[0] - 66, peak[1] - 309) < 20
    assert any(r.bbox[0] < 318 and r.bbox[2] > 300 for r in result.regions)
    verdicts = [detector.inspect(texture(seed)).verdict for seed in range(110, 120)]
    assert verdicts.count("good") >= 6
    plain = Detector("patchcore", **{**ASKED, "tiles": None}).fit(good)

    def margin(of: Detector) -> float:
        scratched = [of.inspect(texture(seed, scratched=True)).score for seed in range(130, 136)]
        whole = [of.inspect(texture(seed)).score for seed in range(130, 136)]
        return float((np.mean(scratched) - np.mean(whole)) / np.std(whole))

    assert margin(detector) > margin(plain)


def test_pictures_of_other_sizes_go_through_the_same_model(detector: Detector, tmp_path: Path) -> None:
    shapes = [(64, 64), (64, 300), (200, 64), (128, 400)]
    line = detector.inspector(batch=4)
    results = list(line.inspect_many([texture(7, shape) for shape in shapes]))
    assert [result.anomaly_map.shape for result in results] == shapes
    one = detector.inspect(texture(7, (64, 300)))
    assert one.score == results[1].score
    assert np.array_equal(one.anomaly_map, results[1].anomaly_map)
    with pytest.raises(DataError, match="a tile 64 x 64"):
        detector.inspect(texture(1, (63, 300)))
    small, fine = line.inspect_many([texture(1, (63, 300)), texture(1)], errors="yield")
    assert isinstance(small, DataError)
    assert fine.verdict is not None


def test_a_saved_model_says_the_same_and_counts_pictures(detector: Detector, good: Path, tmp_path: Path) -> None:
    detector.save(tmp_path / "m")
    image = texture(300, scratched=True)
    again = Detector.load(tmp_path / "m")
    assert again.inspect(image).score == detector.inspect(image).score
    data = again.model.meta.data
    assert data.good_images == 30
    assert data.learned_from == 18
    assert len(data.content_ids) == 18
    calibrator = again.model.calibrators["f32"]
    assert calibrator.n == 12
    assert calibrator.exact


def test_what_does_not_go_with_tiles_is_refused(good: Path, tmp_path: Path) -> None:
    for more in (
        {"method": "auto"},
        {"tiles": None, "tile_places": "on"},
        {"method": "padim+patchcore", "tile_places": "on"},
    ):
        with pytest.raises(ConfigError, match="tiles"):
            Detector(**{"method": "padim", **ASKED, **more})
    with pytest.raises(ConfigError, match="inspects no tiles"):
        Detector("padim", **{**ASKED, "multi_class": True}).fit(good)
    with pytest.raises(DataError, match=r"\.png.*a tile 512 x 512"):
        Detector("padim", **{**ASKED, "tiles": "512"}).fit(good)
    with pytest.raises(ConfigError, match="cannot leave images out"):
        Detector("padim", **{**ASKED, "calibration": "leave_one_out"}).fit(good)


def test_a_picture_is_decoded_once_for_all_of_its_tiles(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    def counted(*arguments: Any, **more: Any) -> Any:
        nonlocal count
        count += 1
        return shown_in(*arguments, **more)

    monkeypatch.setattr(features, "shown_in", counted)
    Detector("padim", **{**ASKED, "calibration": "none"}).fit(good)
    assert 30 <= count <= 30 * (cores() + 1)  # several threads may begin with one picture
    assert count < 30 * len(Tiling(64, 16).places((128, 400))) / 3


def test_the_most_anomalous_tile_gives_the_score() -> None:
    class Brightness:
        name, precision = "none", "f32"

        def __call__(self, images: Any) -> Any:
            assert len(images) <= TOGETHER
            maps = images[..., 0].astype(np.float32)
            return maps.mean((1, 2)), maps

    plan = Preprocess((64, 64), tiles=Tiling(64, 0))
    image = np.zeros((64 * 4, 64 * 5), np.uint8)
    image[128:192, 64:128] = 200
    scores, maps = Tiled(Brightness())([plan.in_tiles(image)])  # type: ignore[arg-type]
    assert scores.tolist() == [200]
    assert np.array_equal(maps[0], image)


def test_features_of_tiles_are_kept_apart(good: Path, tmp_path: Path) -> None:
    """For what observes them and for what learns in steps, in the cache and out of it."""
    plan = Preprocess((64, 64), tiles=Tiling(64, 16))
    tiles = Images(plan).pieces([Record(id="00", path=good / "00.png")])
    own = FeatureSource(FakeBackbone(), plan, None)
    wanted = [own.extracted(plan(read_image(good / "00.png"), tile=k)) for k in range(len(tiles))]
    kept = FeatureSource(FakeBackbone(), plan, FeatureCache(tmp_path))
    samples = ImageSamples(kept, files(tiles, plan), Needs(twin="texture"))
    for _ in range(2):
        observed = [kept.maps(tile) for tile in tiles]
        learned = samples.batch(range(len(tiles)))
        assert learned.pyramid is not None
        for k, maps in enumerate(wanted):
            for level, expected in enumerate(maps):
                np.testing.assert_allclose(observed[k][level], expected, atol=1e-5)
                np.testing.assert_allclose(learned.pyramid.maps[level][k], expected, atol=1e-5)
    torch = pytest.importorskip("torch")
    damaged = samples.batch(range(len(tiles)), torch.Generator().manual_seed(0))
    assert damaged.mask is not None
    assert len({mask.tobytes() for mask in damaged.mask}) > len(tiles) // 2


def test_few_pictures_are_calibrated_in_folds(good: Path) -> None:
    few = sorted(good.iterdir())[:12]
    model = Detector("padim", **{**ASKED, "calibration": "auto"}).fit(few).model
    assert model.calibrators["f32"].kind == "cross"
    assert model.calibrators["f32"].n == 12
    assert FOLDS > 1


def test_a_trained_method_learns_from_tiles(good: Path) -> None:
    pytest.importorskip("torch")
    options = {"steps": 4, "until": "steps", "embedding": 8, "widths": (8,)}
    detector = Detector("rd", backbone=FakeBackbone(), **{**ASKED, **options, "calibration": "none"}).fit(good)
    assert detector.inspect(texture(3)).anomaly_map.shape == (128, 400)
