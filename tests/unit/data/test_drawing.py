"""Heat maps on one scale, boxes, pairs and files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from blemish.data.drawing import BOX, TRUTH, Scale, colours, display, encode, line_width, side_by_side, write_png
from blemish.data.image.decode import read_image
from blemish.data.image.picture import overlay, thumbnail
from blemish.errors import ConfigError, DataError
from blemish.inspection.conformal import Calibrator
from blemish.inspection.scale import scale_of
from blemish.types import Region

GREY = np.random.default_rng(0).integers(60, 200, (40, 50), dtype=np.uint8)


def flat(value: float, shape: tuple[int, int] = (40, 50)) -> np.ndarray:
    return np.full(shape, value, np.float32)


def test_below_the_scale_the_image_stays_as_it_is():
    assert np.array_equal(overlay(GREY, flat(1.0), low=1.0, high=2.0), display(GREY))


def test_a_colour_depends_on_the_value_and_not_on_the_rest_of_the_map():
    quiet, loud = flat(0.0), flat(0.0)
    quiet[5, 5] = loud[5, 5] = 0.6
    loud[20:, 20:] = 100.0
    one, two = (overlay(GREY, m, low=0.0, high=1.0) for m in (quiet, loud))
    assert np.array_equal(one[:20], two[:20])
    assert not np.array_equal(one[5, 5], display(GREY)[5, 5])


def test_opacity_grows_with_the_value_and_stops_at_high():
    image = np.full((1, 6), 128, np.uint8)
    out = overlay(image, np.array([[0, 0.2, 0.5, 1, 2, 9]], np.float32), low=0, high=1).astype(int)[0]
    texture = [
        np.ptp(
            overlay(np.array([[0, 255]], np.uint8), np.full((1, 2), v, np.float32), low=0, high=1).astype(int), axis=1
        ).max()
        for v in (0, 0.2, 0.5, 1)
    ]
    assert texture == sorted(texture, reverse=True)
    assert len(set(texture)) == 4
    assert texture[-1] > 40, "the part stays visible under the hottest spot"
    assert (out[3] == out[4]).all()
    assert (out[3] == out[5]).all()


def test_the_colour_map_gets_lighter_all_the_way_and_evenly():
    lab = cv2.cvtColor(colours(np.linspace(0, 1, 64))[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    steps = np.diff(lab[:, 0])
    assert (steps > 0).all()
    assert steps.max() < 3 * steps.mean()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [None, 3])
def test_every_canonical_image_can_be_drawn(dtype, channels):
    ramp = np.linspace(0, 4000 if dtype != np.uint8 else 255, 40 * 50).reshape(40, 50).astype(dtype)
    image = ramp if channels is None else np.repeat(ramp[..., None], 3, axis=2)
    out = overlay(image, flat(0), low=1, high=2)
    assert out.dtype == np.uint8
    assert out.shape == (40, 50, 3)
    assert out.min() < 5
    assert out.max() > 250
    assert (np.diff(out[..., 0].ravel().astype(int)) >= 0).all()


def test_a_constant_deep_image_can_be_drawn():
    assert display(np.full((3, 4), 700, np.uint16)).shape == (3, 4, 3)


def test_boxes_enclose_their_region_and_stay_inside_the_image():
    region = Region((10, 5, 20, 15), 100, 2.0, 1.5)
    out = overlay(GREY, flat(0), low=1, high=2, regions=[region])
    drawn = (out == BOX).all(axis=2)
    rows, columns = np.nonzero(drawn)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (10, 5, 19, 14)
    assert not drawn[7:12, 13:17].any()
    whole = overlay(GREY, flat(0), low=1, high=2, regions=[Region((0, 0, 50, 40), 1, 1.0, 1.0)])
    assert (whole[-1, -1] == BOX).all()


def test_lines_are_thin_on_any_size():
    assert line_width((1, 1)) == line_width((256, 256)) == 1
    assert 5 < line_width((4000, 3000)) < 20


def test_wrong_shapes_and_scales_are_refused():
    with pytest.raises(ConfigError, match=r"\(H, W\)"):
        overlay(GREY, flat(0, (4, 5)), low=0, high=1)
    with pytest.raises(ConfigError, match="rise"):
        overlay(GREY, flat(0), low=1, high=1)
    with pytest.raises(ConfigError, match="one size"):
        side_by_side(display(GREY), display(GREY[:5]))


def test_pairs_stand_in_a_row_or_in_a_column():
    high, wide = np.zeros((30, 20, 3), np.uint8), np.zeros((20, 100, 3), np.uint8)
    assert side_by_side(high, high, gap=4).shape == (30, 44, 3)
    assert side_by_side(wide, wide, gap=4).shape == (44, 100, 3)


def test_the_scale_starts_at_a_middling_good_peak_and_has_the_threshold_at_a_quarter():
    peaks = [float(v) for v in range(1, 40)]
    calibrator = Calibrator.fit(peaks, peaks, 0.05)
    scale = scale_of(calibrator)
    assert scale.low == 20
    assert calibrator.map_threshold == 38
    assert (calibrator.map_threshold - scale.low) / (scale.high - scale.low) == pytest.approx(0.25)
    assert scale_of(calibrator, flat(999)) == scale


@pytest.mark.parametrize("value", [0.0, -3.0, 1e6])
def test_equal_peaks_still_make_a_rising_scale(value):
    scale = scale_of(Calibrator.fit([value] * 19, [value] * 19, 0.05))
    assert scale.low < scale.high
    assert scale_of(None, flat(value)).low < scale_of(None, flat(value)).high


def test_without_calibrator_the_map_gives_its_own_scale():
    anomaly_map = flat(1.0)
    anomaly_map[0, 0] = 7.0
    assert scale_of(None, anomaly_map) == Scale(1.0, 7.0)
    with pytest.raises(ConfigError):
        scale_of(None)


@pytest.mark.parametrize("shape", [(2000, 1500), (30, 20), (8, 700)])
def test_a_thumbnail_has_its_size_and_keeps_a_spot_of_one_pixel(shape):
    anomaly_map, mask = flat(0, shape), np.zeros(shape, bool)
    spot = shape[0] // 2, shape[1] // 2
    anomaly_map[spot], mask[spot] = 1.0, True
    image = np.full(shape, 128, np.uint8)
    kept = thumbnail(image, anomaly_map, scale=Scale(0, 1), mask=mask, longest=100)
    assert max(kept.shape[:2]) <= 204
    assert (kept == TRUTH).all(axis=2).any()
    plain = thumbnail(image, flat(0, shape), scale=Scale(0, 1), longest=100)
    assert (np.abs(kept.astype(int) - plain).max(axis=2) > 60).sum() > (kept == TRUTH).all(axis=2).sum()


def test_boxes_are_drawn_on_thumbnails_in_their_pixels():
    region = Region((1000, 500, 2000, 1000), 1, 1.0, 1.0)
    out = thumbnail(np.zeros((1000, 2000), np.uint8), flat(0, (1000, 2000)), scale=Scale(1, 2), regions=[region])
    rows, columns = np.nonzero((out == BOX).all(axis=2))
    assert (columns.min(), columns.max()) == (128, 255)
    assert (rows.min() - 132, rows.max() - 132) == (64, 127)  # below the image and the gap


@pytest.mark.parametrize("array", [GREY, display(GREY), np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000])
def test_png_files_hold_the_same_pixels_under_any_name(tmp_path: Path, array):
    path = tmp_path / "Prüfung 検査" / "näht ✓.png"
    write_png(path, array)
    assert np.array_equal(read_image(path), array)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_rgb_stays_rgb(tmp_path: Path):
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    write_png(tmp_path / "red.png", red)
    assert np.array_equal(read_image(tmp_path / "red.png"), red)


def test_what_cannot_be_written_is_an_error_that_names_the_file_and_leaves_nothing(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="x.png"):
        write_png(tmp_path / "file" / "x.png", GREY)
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(DataError, match="taken.png"):
        write_png(tmp_path / "taken.png", GREY)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "taken.png"]


def test_jpegs_are_small():
    assert encode(display(GREY), ".jpg")[:2] == b"\xff\xd8"
