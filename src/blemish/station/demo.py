"""A station that shows itself: real solar cells come in, two a second, and are judged."""

from __future__ import annotations

import itertools
import json
import os
import random
import secrets
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import insert

from blemish.data import layouts
from blemish.data.layouts import select
from blemish.detector import Detector
from blemish.errors import ConfigError
from blemish.station import audit
from blemish.station.auth import add_user
from blemish.station.changes import put_live
from blemish.station.ids import now_ms
from blemish.station.ledger.schema import sources
from blemish.station.models import import_model
from blemish.station.place import Place
from blemish.station.setup import init, opened
from blemish.types import Record, Track

DATA, GROUP = "elpv", "mono"
SPLIT = (
    "random"  # cells of the modules that were learned: a line makes one product (a measurement would split by module)
)
RATE = 0.1  # of good cells that may be rejected
DEFECTIVE = 0.15  # of the cells that come in
SIDE = 224
WAITING = 40  # pictures in the hot folder, above which none is added
LOGIN = "login.json"


def cells() -> list[Record]:
    """The demo's pictures. DataError, with what to install, where they are not there."""
    return select(layouts.index(DATA, split=SPLIT), [GROUP])


def make(folder: Path, records: Sequence[Record], method: str, track: Track) -> Place:
    """A station with a model of the good cells, a hot folder, and a user `demo`; the one that is there, if any.

    Raises ConfigError where the folder holds anything else.
    """
    root = folder / "station"
    if (folder / LOGIN).exists():
        return Place.of(root)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty, and no demo of a station", hint="give a new folder")
    hot = folder / "in"
    place = init(root, site="demo", line="cells", roots=(str(hot),))
    hot.mkdir()
    good = [record for record in records if record.split == "train"]
    detector = Detector(method, image_size=SIDE, false_alarm_rate=RATE)
    detector.fit(good, track=track)
    detector.save(folder / "model.blemish")
    _, _, ledger = opened(root)
    number = import_model(
        place, ledger, folder / "model.blemish", name="solar cells", golden=[r.path for r in good[:4]]
    )
    password = secrets.token_urlsafe(12)
    options = json.dumps({"path": str(hot.resolve()), "review_rate": 0.05})
    actor = audit.Actor("demo", "system")
    with ledger.write() as connection:
        values = {"name": "cells", "kind": "folder", "config": options, "product_id": 1}
        key = connection.execute(insert(sources).values(**values)).inserted_primary_key
        assert key is not None
        add_user(connection, actor, "demo", "admin", password)
    put_live(place, ledger, actor, int(key[0]), number, "the demo's model")
    ledger.close()
    handle = os.open(folder / LOGIN, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump({"user": "demo", "password": password}, file)
    return place


def feed(hot: Path, records: Sequence[Record], rate: float, stop: threading.Event) -> None:
    """Put test cells into the hot folder until told to stop, each whole at once and under a name of its own."""
    draw, first = random.Random(0), now_ms() // 1000
    test = {
        label: [record for record in records if record.split == "test" and record.label == label] for label in (0, 1)
    }
    for number in itertools.count():
        if stop.wait(1 / rate):
            return
        if len(os.listdir(hot)) > WAITING:
            continue
        record = draw.choice(test[int(draw.random() < DEFECTIVE)])
        partial = hot / ".cell.part"
        shutil.copyfile(record.path, partial)
        partial.rename(hot / f"{first + number}-{Path(record.path).name}")
