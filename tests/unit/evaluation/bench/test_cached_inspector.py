"""A line from cached features gives what the deployed line gives, and says of each file what it would say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from blemish import DataError, Detector
from blemish.data.image.preprocess import Preprocess
from blemish.evaluation.bench.cached_inspector import CachedLine, CountedCache, differing
from blemish.learning.sources.features import FeatureSource
from tests.fakes import FakeBackbone, write_mvtec


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("padim", {}),
        ("dfc", {"head": "padim", "shots": 4, "anchors": 4}),
        ("fader", {"steps": 2, "until": "steps", "gate_steps": 2, "width": 2}),
        ("dfc", {"head": "fader", "head_options": {"map": "saliency"}, "shots": 4, "anchors": 4}),
    ],
    ids=["one", "routed", "seen again", "routed, image or not"],
)
def test_a_line_from_cached_features_is_the_deployed_one(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    trees = [write_mvtec(tmp_path / "set" / name) for name in ("one", "two")]
    usual: dict[str, Any] = {
        "backbone": FakeBackbone(),
        "image_size": 56,
        "cache": False,
        "precision": "f32",
        "calibration": "none",
    }
    detector = Detector(method, **usual, **options)
    detector.fit(tmp_path / "set" if options else trees[0])
    cache = CountedCache(tmp_path / "cache")
    preprocess = Preprocess.from_json(detector.model.meta.preprocess)
    source = FeatureSource(FakeBackbone(), preprocess, cache, image=method == "fader")
    line, deployed = CachedLine(detector.model, source), detector.inspector()
    paths = sorted((trees[0] / "test").rglob("*.png"))
    assert differing(deployed, line, paths) == 0
    assert (cache.requested, cache.found) == (8, 0)
    assert line.inspect(paths[0]).score == deployed.inspect(paths[0]).score
    assert cache.found == 1
    (tmp_path / "broken.png").write_bytes(b"no picture")
    error, result = line.inspect_many([tmp_path / "broken.png", paths[0]], errors="yield")
    assert isinstance(error, DataError)
    assert "broken.png" in str(error)
    assert result.score == deployed.inspect(paths[0]).score
