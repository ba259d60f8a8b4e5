"""The makers of damaged copies that a method may ask for by name (`Needs.twin`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blemish.data.synthesis.cutpaste import CutPaste
from blemish.data.synthesis.texture import FromImages, PasteTexture, Procedural

Image = NDArray[np.uint8]
Maker = Callable[[Image, np.random.Generator], tuple[Image, NDArray[np.bool_]]]

VERSION = 1  # of what the makers draw: features of twins are kept under it


def _texture(textures: Sequence[Image]) -> Maker:
    return PasteTexture(FromImages(textures) if textures else Procedural())


def _cutpaste(_: Sequence[Image]) -> Maker:
    return CutPaste()


def _mixed(textures: Sequence[Image]) -> Maker:
    """A texture or a cut-and-paste patch or scar, with equal chance, as OneNIP mixes them (Gao, ECCV 2024)."""
    makers = _texture(textures), CutPaste(("patch", "scar"))

    def make(image: Image, generator: np.random.Generator) -> tuple[Image, NDArray[np.bool_]]:
        return makers[int(generator.integers(2))](image, generator)

    return make


MAKERS: dict[str, Callable[[Sequence[Image]], Any]] = {"texture": _texture, "cutpaste": _cutpaste, "mixed": _mixed}
"""By name: images to take textures from (none: drawn ones) -> a synthesizer."""
