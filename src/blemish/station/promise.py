"""What was promised against what is seen: the share of good parts that are rejected, by a time-uniform interval.

The interval (Robbins 1970; Howard, Ramdas, McAuliffe and Sekhon 2021) holds the true share at all times at once with
95 %: it may be watched all day, which an interval for one look may not.

Which parts count. Where nearly all rejects were judged blind, each accepted part counts as good (the share of escapes
changes the result by less than itself), and so does each reject that was judged good or unsure, or not judged. Else
only the drawn parts that were judged blind count: fewer, and as valid, since they were drawn before any verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from scipy.optimize import brentq
from scipy.special import betaln
from sqlalchemy import Connection, and_, case, func, select

from blemish.station.judgements import standing
from blemish.station.ledger.schema import deployments, hourly, inspections, models, products, reviews, sources
from blemish.station.reading import iso

MISS = 0.05  # probability that the interval ever misses
JUDGED = 0.99  # share of rejects that must be judged blind for all parts to count
EDGE = 1e-12
COLUMNS = tuple("source product deployment promise alpha confidence way x n share lower upper state since".split())


def interval(x: int, n: int, miss: float = MISS) -> tuple[float, float]:
    """The shares that x of n parts leave possible, at every look at once.

    Robbins' mixture with the prior Beta(1/2, 1/2): those theta with
    B(1/2 + x, 1/2 + n - x) / B(1/2, 1/2) < theta^x (1 - theta)^(n - x) / miss.
    """
    if not 0 <= x <= n:
        raise ValueError(f"{x} of {n}")
    if n == 0:
        return 0.0, 1.0
    bound = float(betaln(0.5 + x, 0.5 + n - x) - betaln(0.5, 0.5) + math.log(miss))

    def inside(theta: float) -> float:
        return (x and x * math.log(theta)) + ((n - x) and (n - x) * math.log1p(-theta)) - bound

    middle = min(max(x / n, EDGE), 1 - EDGE)
    lower = 0.0 if x == 0 or inside(EDGE) > 0 else float(brentq(inside, EDGE, middle, xtol=1e-15))
    upper = 1.0 if x == n or inside(1 - EDGE) > 0 else float(brentq(inside, middle, 1 - EDGE, xtol=1e-15))
    return lower, upper


class Counted(NamedTuple):
    """x rejected of n good parts, counted in a way: all, drawn."""

    x: int
    n: int
    way: str


def state(counted: Counted, alpha: float) -> str:
    """kept, open or broken; too_early where not even a clean record of so many parts could show that it is kept."""
    lower, upper = interval(counted.x, counted.n)
    if upper <= alpha:
        return "kept"
    if lower > alpha:
        return "broken"
    return "too_early" if interval(0, counted.n)[1] > alpha else "open"


def counted(connection: Connection, deployment: int) -> Counted:
    """Good parts of a deployment, and how many of them were rejected."""
    said = standing().where(reviews.c.blind).subquery()
    good = func.max(case((said.c.truth != "defect", 1), else_=0))  # by anybody
    truth = select(said.c.seq, good.label("good")).group_by(said.c.seq).subquery()
    own = and_(inspections.c.deployment_id == deployment, inspections.c.state == "judged")
    rejects = connection.execute(
        select(inspections.c.seq, truth.c.good)
        .outerjoin(truth, truth.c.seq == inspections.c.seq)
        .where(own, inspections.c.verdict != "good")
        .order_by(inspections.c.seq)
    ).all()
    done = _horizon([(row.seq, row.good) for row in rejects])
    if done is not None:
        accepted = connection.scalar(select(func.sum(hourly.c.good)).where(hourly.c.deployment_id == deployment)) or 0
        if done.last is not None:
            late = and_(own, inspections.c.verdict == "good", inspections.c.seq > done.last)
            accepted -= connection.scalar(select(func.count()).where(late)) or 0
        return Counted(done.x, int(accepted) + done.x, "all")
    drawn = connection.execute(
        select(inspections.c.verdict, truth.c.good)
        .join(truth, truth.c.seq == inspections.c.seq)
        .where(own, inspections.c.drawn)
    ).all()
    verdicts = [row.verdict for row in drawn if row.good]
    return Counted(sum(each != "good" for each in verdicts), len(verdicts), "drawn")


class _Horizon(NamedTuple):
    last: int | None  # the reject up to which nearly all were judged; None = there is no later one
    x: int  # of them count as good


def _horizon(rejects: Sequence[tuple[int, Any]]) -> _Horizon | None:
    """Up to where nearly all rejects were judged, which has nothing to do with what they are; None where that is less
    than half of them."""
    found, x, judged = None if rejects else _Horizon(None, 0), 0, 0
    for total, (seq, good) in enumerate(rejects, start=1):
        judged += good is not None
        x += good is None or bool(good)
        if judged >= JUDGED * total and 2 * total >= len(rejects):
            found = _Horizon(None if total == len(rejects) else seq, x)
    return found


def promises(connection: Connection, deployment: int | None = None) -> list[dict[str, Any]]:
    """What each live deployment, or one of them, has promised and kept; plain values, in the order of sources."""
    asked = (
        select(
            deployments.c.id,
            deployments.c.since,
            sources.c.name.label("source"),
            products.c.name.label("product"),
            models.c.promise,
            models.c.alpha,
            models.c.confidence,
        )
        .join(sources, sources.c.id == deployments.c.source_id)
        .outerjoin(products, products.c.id == sources.c.product_id)
        .join(models, models.c.id == deployments.c.model_id)
        .where(deployments.c.until.is_(None) if deployment is None else deployments.c.id == deployment)
        .order_by(sources.c.name, deployments.c.id)
    )
    out = []
    for row in connection.execute(asked).mappings():
        found = counted(connection, row["id"])
        lower, upper = interval(found.x, found.n)
        out.append(
            {
                "source": row["source"],
                "product": row["product"],
                "deployment": row["id"],
                **{name: row[name] for name in ("promise", "alpha", "confidence")},
                "way": found.way,
                "x": found.x,
                "n": found.n,
                "share": found.x / found.n if found.n else None,
                "lower": lower,
                "upper": upper,
                "state": None if row["alpha"] is None else state(found, row["alpha"]),
                "since": iso(row["since"]),
            }
        )
    return out
