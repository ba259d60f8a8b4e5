"""Maps as the evaluation server of MVTec AD 2 takes them: continuous ones as float16 TIFF, thresholded ones as PNG.

anomaly_images/<category>/<test set>/<image>.tiff and anomaly_images_thresholded/<category>/<test set>/<image>.png
(0 and 255), as the public code of the data set checks them (`check_and_prepare_data_for_upload.py`); it refuses a
folder that holds anything else.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blemish.data import drawing
from blemish.data.image.tiff_float16 import encode_float16
from blemish.data.layouts.mvtec2 import submitted
from blemish.errors import ConfigError, DataError
from blemish.outputs import NewFolder

if TYPE_CHECKING:
    from blemish.inspection.modelfile import Model
    from blemish.types import AnomalyResult

OPTION = "--server-maps"
CONTINUOUS, CUT = "anomaly_images", "anomaly_images_thresholded"
LARGEST = float(np.finfo(np.float16).max)


class ServerMaps:
    """The folder that is sent in. Continuous maps are divided by `unit`, a power of two near the model's map threshold,
    so that 16 bits hold them: their order stays, but for rounding, and no more than that is measured of them.

    Args:
        folder: where it is; nothing in it is replaced.
        files: the images to inspect, each in a test set of its category.
        read: what is named on the command line.

    DataError, before any work, where an image is no test image, two have one name, or a file is there already;
    ConfigError where the model has no threshold, or is none of images.
    """

    def __init__(self, folder: Path, files: Sequence[Path], model: Model, *, read: Sequence[Path]) -> None:
        if model.meta.kind != "image":
            raise ConfigError(f"{OPTION} is for models of images", hint="leave it out")
        calibrator = next(iter(model.calibrators.values()), None)
        if calibrator is None:
            hint = "`blemish calibrate MODEL GOOD` makes one"
            raise ConfigError(f"{OPTION} cuts maps at a threshold, and this model has none", hint=hint)
        self.unit = 2.0 ** round(math.log2(abs(calibrator.map_threshold))) if calibrator.map_threshold else 1.0
        names = [submitted(file) for file in files]
        for name, number in Counter(map(str.casefold, names)).items():
            if number > 1:
                message = f"{number} of the images have maps of the name '{name}'"
                raise DataError(message, path=folder, hint="inspect each category once")
        every = [made for name in names for made in self._names(name)]
        self.folder = NewFolder(folder, OPTION, every, read=read)
        self.clipped = 0  # maps

    @staticmethod
    def _names(name: str) -> tuple[str, str]:
        return f"{CONTINUOUS}/{name}.tiff", f"{CUT}/{name}.png"

    def store(self, file: Path, result: AnomalyResult) -> None:
        """Write both maps of one image."""
        if result.map_threshold is None:
            message = f"has no thresholded map: category '{result.category}' has no threshold"
            raise DataError(message, path=file, hint="calibrate the model with more good images of it")
        continuous, cut = self._names(submitted(file))
        scaled = result.anomaly_map / np.float32(self.unit)
        self.clipped += bool((np.abs(scaled) > LARGEST).any())
        above = np.where(result.anomaly_map > result.map_threshold, np.uint8(255), np.uint8(0))
        self.folder.write(continuous, encode_float16(np.clip(scaled, -LARGEST, LARGEST).astype(np.float16)))
        self.folder.write(cut, drawing.encode(above))

    def close(self) -> None:
        """A warning where values were too large for 16 bits."""
        if self.clipped:
            warnings.warn(f"{self.clipped} maps have values too large for float16, which were cut off", stacklevel=2)
