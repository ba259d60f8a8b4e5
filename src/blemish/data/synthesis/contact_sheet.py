"""One picture of many: rows of small ones with captions, for a quick review."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from blemish.errors import ConfigError

Picture = NDArray[np.uint8]
Row = tuple[str, Sequence[Picture]]

INK, SOFT, BACK, CARD = (29, 39, 51), (102, 113, 126), (246, 247, 249), (255, 255, 255)
_MARGIN, _GAP, _LINE = 24, 10, 22


def contact_sheet(
    title: str, subtitle: str, heads: Sequence[str], rows: Sequence[Row], *, side: int = 220, across: int = 1
) -> Picture:
    """RGB: a title, and cards of one row each, `across` of them side by side, each row with its caption below.

    Pictures (H, W, 3) uint8 of any size are fitted into squares of `side` pixels, aspect kept. ConfigError where a row
    has not as many pictures as there are `heads`.
    """
    if any(len(pictures) != len(heads) for _, pictures in rows):
        raise ConfigError(f"each row of the sheet needs {len(heads)} pictures")
    across = max(1, min(across, len(rows)))
    card = len(heads) * side + (len(heads) + 1) * _GAP
    shapes = [picture.shape for _, pictures in rows for picture in pictures]
    low = max((round(side * h / max(h, w)) for h, w, _ in shapes), default=side)  # of the cells, where all are wide
    high = low + 2 * _LINE + 2 * _GAP
    down = -(-len(rows) // across)
    width = 2 * _MARGIN + across * card + (across - 1) * _GAP
    sheet = Image.new("RGB", (width, 2 * _MARGIN + 64 + down * (high + _GAP)), BACK)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN - 4), title, INK, _font(24))
    pen.text((_MARGIN, _MARGIN + 30), _cut(pen, subtitle, 15, width - 2 * _MARGIN), SOFT, _font(15))
    for i, (caption, pictures) in enumerate(rows):
        left = _MARGIN + (i % across) * (card + _GAP)
        top = _MARGIN + 64 + (i // across) * (high + _GAP)
        pen.rounded_rectangle((left, top, left + card, top + high), 8, CARD, (221, 226, 232))
        for k, (head, picture) in enumerate(zip(heads, pictures, strict=True)):
            x = left + _GAP + k * (side + _GAP)
            pen.text((x, top + 5), head, SOFT, _font(13))
            sheet.paste(Image.fromarray(fitted(picture, (low, side))), (x, top + _LINE + 2))
        pen.text((left + _GAP, top + _LINE + low + 8), _cut(pen, caption, 13, card - 2 * _GAP), INK, _font(13))
    return np.asarray(sheet)


def fitted(picture: Picture, size: tuple[int, int]) -> Picture:
    """The picture in the middle of a field of `size` (H, W), its aspect kept."""
    scale = min(size[0] / picture.shape[0], size[1] / picture.shape[1])
    h, w = (max(1, round(n * scale)) for n in picture.shape[:2])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    out = np.full((*size, 3), BACK, np.uint8)
    y, x = (size[0] - h) // 2, (size[1] - w) // 2
    out[y : y + h, x : x + w] = cv2.resize(picture, (w, h), interpolation=way)
    return out


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _cut(pen: Any, text: str, size: int, width: int) -> str:
    """The text, its middle left out where it is too long for `width` pixels."""
    if pen.textlength(text, _font(size)) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        short = text[: (kept + 1) // 2] + "…" + text[len(text) - kept // 2 :]
        if pen.textlength(short, _font(size)) <= width:
            return short
    return text[:1]
