"""The scale on which all pictures of one model are drawn."""

from __future__ import annotations

from statistics import median

import numpy as np
from numpy.typing import NDArray

from blemish.data.drawing import Scale
from blemish.errors import ConfigError
from blemish.inspection.conformal import Calibrator


def scale_of(calibrator: Calibrator | None, anomaly_map: NDArray[np.float32] | None = None) -> Scale:
    """The scale of all pictures of one model.

    From the median peak of the held-out good maps (half of all good parts show no colour at all) up to where the
    calibrator's `colour_threshold` lies at a quarter of the scale. A model without calibrator has no such reference:
    the scale is then the map's own median and maximum, comparable with no other image; ConfigError where none is given.
    """
    if calibrator is not None:
        low = median(calibrator.peaks)
        high = low + 4 * (calibrator.colour_threshold - low)
    elif anomaly_map is not None:
        low, high = float(np.median(anomaly_map)), float(anomaly_map.max())
    else:
        raise ConfigError("a model without calibration has no scale of its own", hint="give an anomaly map")
    return Scale(low, high if high > low else low + max(1e-6, 1e-3 * abs(low)))
