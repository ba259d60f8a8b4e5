"""Evidence of drift."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, Response

from blemish.station.auth import Identity
from blemish.station.blocks import drifts
from blemish.station.drift import KNOWN, LIMITS
from blemish.station.reading import iso
from blemish.station.web.state import Here, Web, as_table, needs

router = APIRouter()

Read = Annotated[Identity, Depends(needs("read"))]


@router.get("/drift", tags=["drift"])
def get_drift(web: Here, _: Read) -> Any:
    """Evidence that accepted parts come otherwise than before, by source and monitor.

    `limits` are the mean blocks to a false alarm of one source; several sources alarm as many times as often.
    """
    return JSONResponse({"limits": LIMITS, "known_from": KNOWN, "drift": _drifts(web)})


@router.get("/drift.csv", tags=["drift"])
def drift_csv(web: Here, _: Read) -> Response:
    """The same as a table, a row for each monitor."""
    rows = [
        {**{name: one[name] for name in ("source", "product", "deployment")}, "monitor": name, **monitor}
        for one in _drifts(web)
        for name, monitor in one["monitors"].items()
    ]
    columns = "source product deployment monitor evidence blocks value rank_p since lag_one".split()
    return as_table("drift", rows, columns)


def _drifts(web: Web) -> list[dict[str, Any]]:
    with web.ledger.read() as connection:
        found = drifts(connection)
    for one in found:
        for monitor in one["monitors"].values():
            monitor["since"] = iso(monitor["since"])
    return found
