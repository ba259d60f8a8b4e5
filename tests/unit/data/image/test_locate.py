"""Parts that lie anywhere: found, turned, cropped, and their maps brought back."""

from __future__ import annotations

import json
import math
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from blemish.data.image.locate import Locator
from blemish.data.image.preprocess import Preprocess
from blemish.errors import ConfigError, DataError, PartNotFound
from tests.parts import ARROW, HOUSE, at_any_angle, picture

NAMES = [f"{i:02}.png" for i in range(24)]


def learned(shape: NDArray[Any], grey: bool = False) -> Locator:
    images = [at_any_angle(shape, seed)[0] for seed in range(len(NAMES))]
    return Locator.learn(lambda i: images[i][..., 0] if grey else images[i], NAMES)


@pytest.fixture(scope="module", params=["arrow", "house", "grey"])
def case(request: pytest.FixtureRequest) -> tuple[Locator, NDArray[Any], bool]:
    shape = HOUSE if request.param == "house" else ARROW
    return learned(shape, request.param == "grey"), shape, request.param == "grey"


def test_the_pose_follows_the_part(case: tuple[Locator, NDArray[Any], bool]) -> None:
    """Centre and angle differ from the drawn ones by the same for all pictures: by where the learned pose is."""
    locator, shape, grey = case
    assert locator.turned == (shape is HOUSE)
    angles, offsets = [], []
    for seed in range(100, 130):
        image, x, y, angle = at_any_angle(shape, seed)
        pose = locator.find(image[..., 0] if grey else image)
        angles.append(pose.angle - angle)
        cos, sin = math.cos(-pose.angle), math.sin(-pose.angle)
        offsets.append((cos * (pose.x - x) - sin * (pose.y - y), sin * (pose.x - x) + cos * (pose.y - y)))
        assert pose.match > 0.9
    unit = np.exp(1j * np.array(angles))
    assert np.abs(np.angle(unit / unit.mean())).max() < math.radians(1.5)
    assert np.std(offsets, 0).max() < 1.0  # pixels
    assert locator.narrowed < 0.2


def test_a_map_comes_back_to_where_it_was_cropped(case: tuple[Locator, NDArray[Any], bool]) -> None:
    locator, shape, _ = case
    image, *_ = at_any_angle(shape, 200)
    smooth = cv2.GaussianBlur(image[..., 0], (0, 0), 6)
    pose = locator.find(image)
    crop = locator.crop(smooth, pose, (144, 160)).astype(np.float32)
    back = locator.back(crop, pose, (image.shape[0], image.shape[1]))
    assert back.shape == image.shape[:2]
    inside = locator.back(np.ones_like(crop), pose, (image.shape[0], image.shape[1])) > 0.999
    inside = cv2.erode(inside.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    assert inside.sum() > 3000
    assert np.abs(back - smooth)[inside].mean() < 2.0
    assert back[0, 0] == crop.min()


def test_what_is_no_part_is_an_alarm_of_its_own() -> None:
    locator = learned(ARROW)
    empty = picture([], 1)
    two = np.hstack([at_any_angle(ARROW, 1)[0], at_any_angle(ARROW, 2)[0]])
    for image, message in (
        (empty, "no part found: good ones cover"),
        (two, "2 parts found"),
        (np.clip(empty.astype(int) + 60, 0, 255).astype(np.uint8), "background's grey level"),
        (picture([(HOUSE * 0.8, 120, 120, 0.3, (40, 52, 60))], 3), "no part found"),
        (picture([(ARROW * 0.5, 120, 120, 0.3)], 3), "no part found: good ones cover"),
    ):
        with pytest.raises(PartNotFound, match=message) as caught:
            locator.find(image)
        assert caught.value.hint
    chip = np.array([[0, 0], [34, 0], [34, 34], [0, 34]], float)
    with pytest.raises(PartNotFound, match="lies beside the part"):
        locator.find(picture([(ARROW, 80, 80, 0.3), (chip, 190, 190, 0.0, (180, 170, 160))], 3))
    assert locator.find(picture([(ARROW, 80, 80, 0.3), (chip / 4, 190, 190, 0.0, (180, 170, 160))], 3)).match > 0.9
    assert len(locator.find_all(two)) == 2
    left, right = locator.find_all(two)
    assert left.x < right.x


def test_another_part_of_the_same_size_matches_too_little() -> None:
    locator = learned(ARROW)
    area = cv2.contourArea(ARROW.astype(np.float32))
    side = math.sqrt(area) / 2
    plate = np.array([[-side, -side], [side, -side], [side, side], [-side, side]])
    with pytest.raises(PartNotFound, match="matches good parts by"):
        locator.find(picture([(plate, 120, 120, 0.0, (180, 170, 160))], 5))


def test_pictures_without_a_part_of_its_own_cannot_be_learned_from() -> None:
    rng = np.random.default_rng(0)
    full = [rng.integers(0, 256, (96, 96), dtype=np.uint8) for _ in range(4)]
    with pytest.raises(DataError, match=r"1\.png|0\.png|2\.png|3\.png"):
        Locator.learn(lambda i: full[i], [f"{i}.png" for i in range(4)])
    images = [at_any_angle(ARROW, seed)[0] for seed in range(6)]
    images[4] = picture([(ARROW * 0.5, 60, 60, 0.0), (ARROW * 0.5, 180, 180, 0.0)], 9)
    with pytest.raises(DataError, match=r"4\.png.*more than one part"):
        Locator.learn(lambda i: images[i], [f"{i}.png" for i in range(6)])
    images[4] = np.clip(at_any_angle(ARROW, 8)[0].astype(int) + 70, 0, 255).astype(np.uint8)
    with pytest.raises(DataError, match=r"4\.png: its border has a grey level"):
        Locator.learn(lambda i: images[i], [f"{i}.png" for i in range(6)])


def test_it_is_written_and_read_and_names_features_in_the_cache() -> None:
    locator = learned(ARROW)
    plain = Preprocess((96, 128))
    located = Preprocess((96, 128), locate=locator)
    again = Preprocess.from_json(json.loads(json.dumps(located.to_json())))
    assert again == located
    image = at_any_angle(ARROW, 300)[0]
    assert np.array_equal(again(image), located(image))
    assert "locate" not in plain.to_json()
    assert "locate" not in plain.rendering()
    assert located.rendering() != plain.rendering()
    for broken in (
        {**located.to_json()["locate"], "more": 1},
        {"background": 3.0},
        {**located.to_json()["locate"], "template": "?"},
    ):
        with pytest.raises(ConfigError, match="located|preprocess"):
            Preprocess.from_json({**located.to_json(), "locate": broken})


def test_deep_pictures_are_located_too() -> None:
    deep = [at_any_angle(ARROW, seed)[0][..., 0].astype(np.uint16) * 257 for seed in range(8)]
    plain = Preprocess((96, 128))
    locator = Locator.learn(lambda i: plain.in_8_bit(deep[i])[0], NAMES[:8])
    located = Preprocess((96, 128), locate=locator)
    assert located(deep[0]).shape == (96, 128, 3)


def test_another_part_among_the_good_pictures_is_named() -> None:
    plate = np.array([[-33, -22], [33, -22], [33, 22], [-33, 22]], float)
    images = [at_any_angle(ARROW, seed)[0] for seed in range(16)]
    images[5] = picture([(plate, 120, 120, 0.2, (180, 170, 160))], 5)
    with pytest.raises(DataError, match=r"05\.png: shows another part than the other good images"):
        Locator.learn(lambda i: images[i], NAMES[:16])


def test_the_template_is_a_mean_that_knows_no_noise() -> None:
    rng = np.random.default_rng(0)
    images = [at_any_angle(ARROW, seed)[0] for seed in range(24)]
    noisy = [np.clip(image + rng.normal(0, 40, image.shape), 0, 255).astype(np.uint8) for image in images]
    locator = Locator.learn(lambda i: noisy[i], NAMES)
    assert min(locator.find(at_any_angle(ARROW, seed)[0]).match for seed in range(60, 68)) > 0.98


def test_small_parts_of_large_pictures_are_looked_at_more_closely() -> None:
    def large(seed: int) -> tuple[NDArray[np.uint8], float]:
        image, _, _, angle = at_any_angle(ARROW, seed)
        rng = np.random.default_rng(seed)
        whole = np.clip(40 + rng.normal(0, 3, (1200, 1200, 3)), 0, 255).astype(np.uint8)
        y, x = rng.integers(0, 960, 2)
        whole[y : y + 240, x : x + 240] = image
        return whole, angle

    images = [large(seed)[0] for seed in range(10)]
    locator = Locator.learn(lambda i: images[i], NAMES[:10])
    poses = [(locator.find(image), angle) for image, angle in map(large, range(50, 56))]
    unit = np.exp(1j * np.array([pose.angle - angle for pose, angle in poses]))
    assert np.abs(np.angle(unit / unit.mean())).max() < math.radians(1.5)
    assert min(pose.match for pose, _ in poses) > 0.95
