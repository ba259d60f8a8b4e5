"""`inspect --server-maps`: the tree that MVTec AD 2's server takes, and nothing else in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blemish import Detector
from blemish.cli.server_maps import LARGEST, ServerMaps
from blemish.data.layouts.mvtec2 import submitted
from blemish.errors import DataError
from blemish.inspection import modelfile
from tests.fakes import defective_image, good_image, write_images
from tests.tiny import fit_tiny

pytestmark = pytest.mark.slow
SETS = {"test_private": "regular", "test_private_mixed": "mixed"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model `m`, one without threshold `bare`, and images of the category `can` in `set`."""
    folder = tmp_path_factory.mktemp("server")
    model = fit_tiny(tmp_path_factory.mktemp("model"))
    modelfile.save(model, folder / "m")
    modelfile.save(model.with_calibrators({}, None), folder / "bare")
    for test_set, suffix in SETS.items():
        (folder / "set" / "can" / test_set).mkdir(parents=True)
        for i, image in enumerate((good_image(500), defective_image(501)[0])):
            Image.fromarray(image).save(folder / "set" / "can" / test_set / f"{i:03}_{suffix}.png")
    write_images(folder / "set" / "can" / "train" / "good", 2)
    return folder


def tree(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_both_maps_of_each_image_and_no_other_file(run: Any, place: Path, tmp_path: Path) -> None:
    images = [place / "set" / "can" / test_set for test_set in SETS]
    done = run("inspect", place / "m", *images, "--server-maps", tmp_path / "sent")
    assert done.code == 0, done.err
    stems = [f"can/{test_set}/{i:03}_{suffix}" for test_set, suffix in SETS.items() for i in range(2)]
    assert tree(tmp_path / "sent") == {
        *(f"anomaly_images/{stem}.tiff" for stem in stems),
        *(f"anomaly_images_thresholded/{stem}.png" for stem in stems),
    }


def test_continuous_maps_are_scaled_by_one_factor_and_cut_ones_are_exact(run: Any, place: Path, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile", reason="reads float16 TIFF")
    folder = place / "set" / "can" / "test_private"
    assert run("inspect", place / "m", folder, "--server-maps", tmp_path / "sent").code == 0
    detector, factors = Detector.load(place / "m"), set()
    some = 0
    for file in sorted(folder.iterdir()):
        result = detector.inspect(file)
        sent = tifffile.imread(tmp_path / "sent/anomaly_images/can/test_private" / f"{file.stem}.tiff")
        assert (sent.dtype, sent.shape) == (np.float16, result.anomaly_map.shape)
        at = np.unravel_index(result.anomaly_map.argmax(), result.anomaly_map.shape)
        factors.add(2.0 ** round(np.log2(result.anomaly_map[at] / np.float32(sent[at]))))
        np.testing.assert_allclose(np.float32(sent) * max(factors), result.anomaly_map, rtol=1e-3, atol=1e-4)
        cut = np.asarray(Image.open(tmp_path / "sent/anomaly_images_thresholded/can/test_private" / file.name))
        assert cut.dtype == np.uint8
        assert cut.ndim == 2
        assert result.map_threshold is not None
        np.testing.assert_array_equal(cut, 255 * (result.anomaly_map > result.map_threshold))
        some += int(cut.any())
    assert len(factors) == 1
    assert some


def test_the_next_category_goes_beside_and_nothing_is_replaced(run: Any, place: Path, tmp_path: Path) -> None:
    sent, first = tmp_path / "sent", place / "set" / "can" / "test_private"
    assert run("inspect", place / "m", first, "--server-maps", sent).code == 0
    before = {name: (sent / name).stat().st_mtime_ns for name in tree(sent)}
    again = run("inspect", place / "m", first, "--server-maps", sent)
    assert (again.code, again.out) == (1, "")
    assert "is there already; not overwritten" in again.err
    other = tmp_path / "data" / "vial" / "test_private"
    write_images(other, 1)
    assert run("inspect", place / "m", other, "--server-maps", sent).code == 0
    assert {name: (sent / name).stat().st_mtime_ns for name in before} == before
    assert len(tree(sent)) == len(before) + 2


@pytest.mark.parametrize(
    ("arguments", "message", "code"),
    [
        (("set/can/train/good", "--server-maps", "sent"), "is no test image of MVTec AD 2", 1),
        (("set/can/test_private", "--server-maps", "set/can/test_private/sent"), "which is read", 1),
        (("set/can/test_private", "--server-maps", "m/sent"), "lies in the model folder", 1),
        (("set/can/test_private", "--server-maps", "sent", "--maps", "sent/maps"), "for the server alone", 1),
        (("set/can/test_private", "--server-maps", "sent", "--engine", "ray", "--out", "o"), "--server-maps means", 2),
    ],
)
def test_what_is_refused_before_any_work(
    run: Any, place: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str, code: int
) -> None:
    monkeypatch.chdir(place)
    done = run("inspect", "m", *arguments)
    assert done.code == code
    assert message in done.err
    assert not (place / "sent").exists()


def test_a_model_without_threshold_cannot_cut(run: Any, place: Path, tmp_path: Path) -> None:
    images = place / "set" / "can" / "test_private"
    done = run("inspect", place / "bare", images, "--server-maps", tmp_path / "sent")
    assert done.code == 2
    assert "this model has none" in done.err
    assert not (tmp_path / "sent").exists()


def test_two_images_of_one_name_are_refused(run: Any, place: Path, tmp_path: Path) -> None:
    for end in ("png", "bmp"):
        (tmp_path / "can" / "test_private").mkdir(parents=True, exist_ok=True)
        Image.fromarray(good_image(1)).save(tmp_path / "can" / "test_private" / f"000_regular.{end}")
    done = run("inspect", place / "m", tmp_path / "can", "--server-maps", tmp_path / "sent")
    assert done.code == 1
    assert "2 of the images have maps of the name 'can/test_private/000_regular'" in done.err


def test_an_image_that_cannot_be_read_has_no_maps(run: Any, place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "can" / "test_private"
    write_images(folder, 1)
    (folder / "001.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    done = run("inspect", place / "m", folder, "--server-maps", tmp_path / "sent")
    assert done.code == 1
    assert {Path(name).stem for name in tree(tmp_path / "sent")} == {"000"}


def test_values_beyond_float16_are_cut_off_and_said(place: Path, tmp_path: Path) -> None:
    detector, file = Detector.load(place / "m"), place / "set/can/test_private/000_regular.png"
    server = ServerMaps(tmp_path / "sent", [file], detector.model, read=[file])
    result = detector.inspect(file)
    result.anomaly_map[0, 0] = 1e30
    server.store(file, result)
    with pytest.warns(UserWarning, match="1 maps have values too large for float16"):
        server.close()
    tifffile = pytest.importorskip("tifffile", reason="reads float16 TIFF")
    assert tifffile.imread(tmp_path / "sent/anomaly_images/can/test_private/000_regular.tiff")[0, 0] == LARGEST


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/data/can/test_private/000_regular.png", "can/test_private/000_regular"),
        ("/test_private/can/Test_Public/bad/000.PNG", "can/test_public/bad/000"),
        ("/can/test_public/ground_truth/bad/000_mask.png", None),
        ("/test_private/000.png", None),
        ("/can/test/good/000.png", None),
        ("/data/can/test_private.png", None),
    ],
)
def test_the_name_that_the_server_knows_an_image_by(path: str, name: str | None) -> None:
    if name is None:
        with pytest.raises(DataError, match="is no test image"):
            submitted(Path(path))
    else:
        assert submitted(Path(path)) == name
