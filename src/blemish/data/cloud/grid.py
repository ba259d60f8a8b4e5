"""Organised coordinates as TIFF (H, W, 3), as MVTec 3D-AD has them, and depth images of a camera that is known.

No point is (0, 0, 0), and in a depth image 0. The camera stands at the origin and looks along z.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.data.image.decode import decode_image
from blemish.errors import DataError
from blemish.types import Cloud


def read(data: bytes, suffix: str, *, intrinsics: tuple[float, float, float, float] | None, depth_unit: float) -> Cloud:
    """See `read_cloud`."""
    if suffix == ".png":
        values = decode_image(data, "depth")
    else:
        from tifffile import imread

        values = np.asarray(imread(BytesIO(data)))
    if values.ndim == 3 and values.shape[2] == 3 and suffix != ".png":
        points = values if values.dtype.kind == "f" else values.astype(np.float64)
        return _cloud(points.astype(points.dtype.newbyteorder("=")))
    if values.ndim != 2:
        raise DataError(f"holds {values.shape}, not coordinates (H, W, 3) or depths (H, W)", hint="is it the xyz file?")
    if intrinsics is None:
        hint = "give intrinsics (--intrinsics FX FY CX CY) in pixels, or a TIFF of coordinates (H, W, 3)"
        raise DataError("is a depth image, and the camera is not known", hint=hint)
    return _cloud(behind(values, intrinsics, depth_unit))


def behind(depth: NDArray[Any], intrinsics: tuple[float, float, float, float], unit: float) -> NDArray[np.float32]:
    """Coordinates (H, W, 3) of a depth image (H, W) of a pinhole camera; (0, 0, 0) where there is none."""
    fx, fy, cx, cy = intrinsics
    z = np.nan_to_num(depth.astype(np.float64), nan=0, posinf=0, neginf=0) * unit
    y, x = np.indices(depth.shape)
    return np.stack([(x - cx) / fx * z, (y - cy) / fy * z, z], 2).astype(np.float32)


def _cloud(points: NDArray[Any]) -> Cloud:
    return Cloud(
        np.ascontiguousarray(points).reshape(-1, 3), shape=(points.shape[0], points.shape[1]), viewpoint=(0.0, 0.0, 0.0)
    )


def written(cloud: Cloud, _: str) -> bytes:
    """A TIFF (H, W, 3) of the points."""
    from tifffile import imwrite

    if cloud.shape is None:
        raise DataError("a TIFF holds an organised cloud, and this one has no rows and columns", hint="write a .ply")
    out = BytesIO()
    imwrite(out, cloud.points.reshape(*cloud.shape, 3), photometric="rgb")
    return out.getvalue()
