"""Parts that were cut out of a good picture: found on any background, at any angle."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from blemish import Detector
from blemish.data.image.preprocess import Preprocess
from blemish.data.image.template import TemplateLocator, locator_of
from blemish.errors import ConfigError, DataError, PartNotFound
from blemish.types import ALARM, Pose

SIDE = 240
HALF = 40  # of the part's rectangle
NAMES = [f"{i:02}.png" for i in range(16)]


def busy(seed: int) -> NDArray[np.uint8]:
    """(SIDE, SIDE, 3): blobs of all grey levels."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(0, 1, (SIDE, SIDE)).astype(np.float32), (0, 0), 5)
    levels = 120 + 45 * noise / noise.std()
    return np.repeat(np.clip(levels, 0, 255).astype(np.uint8)[..., None], 3, 2)


@cache
def plate(kind: int = 0) -> NDArray[np.uint8]:
    """(2 * HALF, 2 * HALF, 3): a plate with two holes and a slot; `kind` another one."""
    out = np.full((2 * HALF, 2 * HALF, 3), 205, np.uint8)
    cv2.rectangle(out, (0, 0), (2 * HALF - 1, 2 * HALF - 1), (30, 30, 30), 5)
    if kind == 0:
        cv2.circle(out, (22, 22), 9, (40, 60, 50), -1)
        cv2.circle(out, (56, 30), 5, (60, 60, 40), -1)
        cv2.rectangle(out, (16, 54), (64, 62), (90, 80, 70), -1)
    else:
        cv2.line(out, (5, 5), (75, 75), (60, 60, 60), 9)
        cv2.line(out, (75, 5), (5, 75), (120, 60, 60), 13)
    return out


def placed(x: float, y: float, angle: float, seed: int, kind: int = 0, size: int = SIDE) -> NDArray[np.uint8]:
    image, cos, sin = busy(seed)[:size, :size].copy(), math.cos(angle), math.sin(angle)
    centre = HALF - 0.5
    matrix = np.array([[cos, -sin, x - cos * centre + sin * centre], [sin, cos, y - sin * centre - cos * centre]])
    inside = cv2.warpAffine(np.ones((2 * HALF, 2 * HALF), np.uint8), matrix, (size, size)) > 0
    image[inside] = cv2.warpAffine(plate(kind), matrix, (size, size), borderMode=cv2.BORDER_REPLICATE)[inside]
    noise = np.random.default_rng(seed).normal(0, 3, image.shape)
    return np.clip(image + noise, 1, 255).astype(np.uint8)


def anywhere(seed: int, kind: int = 0) -> tuple[NDArray[np.uint8], float, float, float]:
    rng = np.random.default_rng(1000 + seed)
    angle, (x, y) = float(rng.uniform(0, 2 * math.pi)), rng.uniform(62, SIDE - 62, 2)
    return placed(x, y, angle, seed, kind), float(x), float(y), angle


def cut_out(*, hidden: bool = False) -> NDArray[np.uint8]:
    image = placed(120, 110, 0.0, 999)[110 - HALF : 110 + HALF, 120 - HALF : 120 + HALF].copy()
    if hidden:
        image[:, HALF + 28 :] = 0
    return image


@cache
def learned(hidden: bool = False, several: bool = False) -> TemplateLocator:
    return TemplateLocator.learn(cut_out(hidden=hidden), lambda i: anywhere(i)[0], NAMES, several=several)


def off(pose: Pose, x: float, y: float, angle: float) -> tuple[float, float]:
    """Pixels and degrees."""
    turn = math.degrees((pose.angle - angle + math.pi) % (2 * math.pi) - math.pi)
    return math.hypot(pose.x - x, pose.y - y), abs(turn)


@pytest.mark.parametrize("hidden", [False, True])
def test_the_pose_follows_the_part_on_a_busy_background(hidden: bool) -> None:
    locator = learned(hidden)
    errors = np.array([off(locator.find(image), *true) for image, *true in map(anywhere, range(100, 124))])
    assert errors[:, 0].max() < 2.5
    assert errors[:, 1].max() < 2.0
    assert locator.narrowed < 0.5
    assert locator.pixels == (2 * HALF, 2 * HALF)


def test_a_part_at_the_border_is_found_too() -> None:
    pose = learned().find(placed(HALF - 4, 120, 0.3, 7))
    assert off(pose, HALF - 4, 120, 0.3)[0] < 3
    whole = placed(HALF - 0.5, HALF - 0.5, 0.0, 8, size=2 * HALF)  # nothing but the part
    assert off(learned().find(whole), HALF - 0.5, HALF - 0.5, 0.0)[0] < 2


def test_no_part_another_part_and_two_parts_are_alarms() -> None:
    for seed in range(200, 206):
        with pytest.raises(PartNotFound, match="no part found: the best place matches"):
            learned().find(busy(seed))
        with pytest.raises(PartNotFound, match="no part found"):
            learned().find(anywhere(seed, kind=1)[0])
    two = np.hstack([anywhere(210)[0], anywhere(211)[0]])
    with pytest.raises(PartNotFound, match="2 parts found"):
        learned().find(two)
    left, right = learned(several=True).find_all(two)
    assert off(left, *anywhere(210)[1:])[0] < 3
    assert off(right, anywhere(211)[1] + SIDE, *anywhere(211)[2:])[0] < 3


def test_what_is_covered_is_what_is_looked_for() -> None:
    image, x, y, angle = anywhere(300)
    covered = learned(hidden=True).covered(image)
    assert covered[round(y), round(x)]
    edge = np.array([x, y]) + (HALF - 5) * np.array([math.cos(angle), math.sin(angle)])
    assert not covered[round(edge[1]), round(edge[0])]
    assert 0.6 < covered.sum() / (2 * HALF) ** 2 < 1


def test_what_cannot_be_a_template_is_named() -> None:
    def learn(drawn: NDArray[np.uint8], images: Any = None) -> None:
        TemplateLocator.learn(drawn, images or (lambda i: anywhere(i)[0]), NAMES)

    with pytest.raises(DataError, match="of one grey level"):
        learn(np.full((60, 60), 90, np.uint8))
    with pytest.raises(DataError, match="shows less than 64"):
        learn(np.zeros((60, 60), np.uint8))
    with pytest.raises(DataError, match="in a typical good picture"):
        learn(np.random.default_rng(0).integers(1, 256, (80, 80), dtype=np.uint8))
    with pytest.raises(DataError, match=r"05\.png: does not show what the template shows"):
        learn(cut_out(), lambda i: busy(40) if i == 5 else anywhere(i)[0])
    twins = np.hstack([anywhere(50)[0], anywhere(51)[0]])
    with pytest.raises(DataError, match=r"03\.png: shows what matches the template .* beside the part"):
        learn(cut_out(), lambda i: twins if i == 3 else anywhere(i)[0])


def test_it_is_written_and_read() -> None:
    plan = Preprocess((96, 96), locate=learned(hidden=True))
    again = Preprocess.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert isinstance(again.locate, TemplateLocator)
    assert len(json.dumps(plan.to_json())) < 8000
    image = anywhere(310)[0]
    assert np.array_equal(again(image), plan(image))
    for broken in ({"looked_for": "?"}, {"looked_for": "AA=="}, {"template": ""}, {"more": 1}):
        with pytest.raises(ConfigError, match="located"):
            locator_of({**learned(hidden=True).to_json(), **broken})


def test_a_model_finds_a_spot_on_a_busy_background(tmp_path: Path) -> None:
    folder = tmp_path / "good"
    folder.mkdir()
    for i in range(30):
        cv2.imwrite(str(folder / f"{i:02}.png"), anywhere(i)[0][..., ::-1])
    rgba = np.dstack([cut_out()[..., ::-1], np.full((2 * HALF, 2 * HALF), 255, np.uint8)])
    rgba[:, HALF + 28 :, 3] = 0  # transparent
    cv2.imwrite(str(tmp_path / "part.png"), rgba)
    asked: dict[str, Any] = {"image_size": 64, "false_alarm_rate": 0.1, "calibration": "split", "held_out": 0.4}
    template = str(tmp_path / "part.png")
    with pytest.raises(ConfigError, match="template"):
        Detector("padim", template=template, cache=False, **asked)
    found = Detector("padim", locate="auto", template=template, cache=False, **asked).fit(folder)
    image, x, y, _ = anywhere(400)
    good = [found.inspect(anywhere(seed)[0]).verdict for seed in range(410, 418)]
    assert good.count("good") >= 5
    cv2.circle(image, (round(x), round(y)), 5, (20, 20, 20), -1)
    result = found.inspect(image)
    assert result.verdict == "anomalous"
    peak = np.unravel_index(int(result.anomaly_map.argmax()), result.anomaly_map.shape)
    assert math.hypot(peak[1] - x, peak[0] - y) < 14
    assert found.inspect(busy(1)).score == ALARM
    found.save(tmp_path / "m")
    assert Detector.load(tmp_path / "m").inspect(image).score == result.score
    cv2.imwrite(template, np.full((40, 40), 90, np.uint8))
    with pytest.raises(DataError, match=r"part\.png: is of one grey level"):
        Detector("padim", locate="on", template=template, cache=False, **asked).fit(folder)
