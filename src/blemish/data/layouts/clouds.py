"""A folder of good point clouds or meshes, flat or nested: all of them are training records."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from blemish.data.cloud.modality import Clouds
from blemish.data.layouts import folder
from blemish.data.layouts._common import Query
from blemish.types import Record

PRIORITY = 120
MODALITY = "cloud"

detect = partial(folder.detect, kind=Clouds)


def index(root: Path, query: Query) -> list[Record]:
    return folder.index(root, query._replace(modality=Clouds))
