"""`python -m tests.light.make_model` learns the stored model again; needs the learning side."""

from __future__ import annotations

import tempfile
from pathlib import Path

from blemish.inspection import modelfile
from blemish.types import Record
from tests.light.parts import MODEL, RATE, write_good
from tests.tiny import fit_tiny


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        good = write_good(Path(folder) / "good", 30, first=0)
        records = [Record(id=path.name, path=path) for path in sorted(good.iterdir())]
        model = fit_tiny(Path(folder), records, false_alarm_rate=RATE)
    modelfile.save(model, MODEL)


if __name__ == "__main__":
    main()
