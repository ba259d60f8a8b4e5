"""What a verdict writes: one transaction for a group of pictures, all of it or nothing.

Rows of inspections, of the hour, of the review queue and of the outbox; a claim whose row is there already (a kill came
between commit and move) adds nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import Connection, and_, insert, select, update

from blemish.station.ids import now_ms
from blemish.station.judging import Judged, as_text
from blemish.station.ledger.schema import deployments, hourly, inspections, lots, models, outbox, queue, sinks, sources

HOUR = 3_600_000
DAY = 24 * HOUR
BINS = 64  # of the hour's histogram of score over threshold, from 1/16 to 16
LANES = {"anomalous": "reject", "unknown": "unknown", "error": "error"}


class Recorder:
    """Writes groups of verdicts.

    Args:
        secret: the station's key; which parts are drawn depends on it and the picture's id alone.
        review_rate: share of parts that are drawn for a blind review, before their verdict is known, by source.
        site, line: names in messages.
    """

    def __init__(self, secret: bytes, review_rate: Mapping[int, float] | None = None, site: str = "", line: str = ""):
        self.secret, self.rates, self.site, self.line = secret, dict(review_rate or {}), site, line

    def write(self, connection: Connection, group: Sequence[Judged], *, keep_good: bool = True) -> dict[str, bool]:
        """Record a group; by the claim's id, whether its picture is kept.

        Without `keep_good` pictures of good parts are not, but for those that are drawn for a review.
        """
        ids = [one.claim.id for one in group]
        there = select(inspections.c.id, inspections.c.purged_at).where(inspections.c.id.in_(ids))
        known = {row.id: row.purged_at is None for row in connection.execute(there)}
        each = {row.id: row for row in connection.execute(select(sources))}
        live = {one.deployment_id for one in group if one.deployment_id is not None}
        judges = {
            row.id: row
            for row in connection.execute(
                select(deployments.c.id, models.c.digest, models.c.promise)
                .join(models, models.c.id == deployments.c.model_id)
                .where(deployments.c.id.in_(live))
            )
        }
        listeners = list(connection.execute(select(sinks.c.id, sinks.c.name).where(sinks.c.active)))
        named = {one.claim.lot_id for one in group if one.claim.lot_id is not None} if listeners else set()
        in_lots = select(lots.c.id, lots.c.name).where(lots.c.id.in_(named))
        lot_names = {row.id: row.name for row in connection.execute(in_lots)} if named else {}
        out: dict[str, bool] = {}
        for one in group:
            if one.claim.id in known:
                out[one.claim.id] = known[one.claim.id]
                continue
            source = each[one.claim.source_id]
            judge = judges.get(one.deployment_id)
            out[one.claim.id] = self._one(connection, one, source, judge, listeners, lot_names, keep_good)
        return out

    def _one(
        self,
        connection: Connection,
        one: Judged,
        source: Any,
        judge: Any,
        listeners: Sequence[Any],
        lot_names: Mapping[int, str],
        keep_good: bool,
    ) -> bool:
        claim, config = one.claim, json.loads(source.config)
        before = None if config.get("always_new") else self._repeated(connection, one)
        state = one.state if before is None else "repeat"
        rate = self.rates.get(claim.source_id, float(config.get("review_rate", 0.0)))
        drawn = before is None and self.draw(claim.id) < rate
        kept = before is None and (keep_good or drawn or one.verdict != "good")
        width, height = one.size or (None, None)
        key = connection.execute(
            insert(inspections).values(
                id=claim.id,
                source_id=claim.source_id,
                claim=claim.number,
                source_key=claim.source_key,
                name=claim.name,
                at=claim.at,
                judged_at=one.judged_at,
                lot_id=claim.lot_id,
                part_id=claim.part_id,
                product_id=source.product_id,
                deployment_id=one.deployment_id,
                state=state,
                verdict=one.verdict,
                repeats=before,
                score=one.score,
                p_value=one.p_value,
                threshold=one.threshold,
                result=as_text(one.result),
                width=width,
                height=height,
                bytes=one.length,
                suffix=claim.suffix,
                sha256=one.sha256,
                **{name: one.health.get(name) for name in ("brightness", "contrast", "focus", "colour")},
                **{f"ms_{name}": one.ms.get(name) for name in ("wait", "infer", "total")},
                drawn=drawn,
                draw_prob=rate,
                purged_at=None if kept else one.judged_at,
                error=one.error,
            )
        ).inserted_primary_key
        assert key is not None
        seq = int(key[0])
        if before is not None:
            return kept
        self._hour(connection, one, source)
        lanes = [LANES[one.verdict]] if one.verdict in LANES else []
        for lane in [*lanes, *(["drawn"] if drawn else [])]:
            connection.execute(insert(queue).values(seq=seq, lane=lane, state="waiting"))
        if listeners:
            payload = as_text(self.message(one, seq, source.name, judge, lot_names.get(claim.lot_id or 0)))
            rows = [{"sink_id": sink.id, "seq": seq, "payload": payload, "at": now_ms()} for sink in listeners]
            connection.execute(insert(outbox), rows)
        return kept

    def draw(self, picture: str) -> float:
        """A number in [0, 1) for a picture, by its id and the station's key alone: before any verdict, and again the
        same."""
        drawn = hmac.new(self.secret, picture.encode(), hashlib.sha256).digest()
        return int.from_bytes(drawn[:7], "big") / 2**56

    def message(self, one: Judged, seq: int, source: str, judge: Any, lot: str | None = None) -> dict[str, Any]:
        """What sinks are told of a verdict, by the model of `judge`."""
        claim, result = one.claim, one.result
        return {
            "inspection_id": claim.id,
            "seq": seq,
            "at": one.judged_at,
            "site": self.site,
            "station": self.line,
            "source": source,
            "part_id": claim.part_id,
            "lot": lot,
            "name": claim.name,
            "pred_label": one.verdict,
            "line": "OK" if one.verdict == "good" else "NG",  # what is not known to be good is rejected
            "pred_score": one.score,
            "p_value": one.p_value,
            "threshold": one.threshold,
            "regions": result.get("regions", []),
            "alarm": result.get("alarm"),
            "deployment": one.deployment_id,
            "model": None if judge is None else f"sha256:{judge.digest}",
            "promise": None if judge is None else judge.promise,
            "error": one.error,
        }

    def _repeated(self, connection: Connection, one: Judged) -> int | None:
        """The inspection of the same name and bytes, from the same source and not longer than a day ago."""
        return connection.scalar(
            select(inspections.c.seq)
            .where(
                and_(
                    inspections.c.sha256 == one.sha256,
                    inspections.c.source_id == one.claim.source_id,
                    inspections.c.name == one.claim.name,
                    inspections.c.part_id.is_not_distinct_from(one.claim.part_id),
                    inspections.c.at > one.claim.at - DAY,
                    inspections.c.state != "repeat",
                )
            )
            .order_by(inspections.c.seq)
            .limit(1)
        )

    def _hour(self, connection: Connection, one: Judged, source: Any) -> None:
        place = {
            "source_id": one.claim.source_id,
            "product_id": source.product_id or 0,
            "deployment_id": one.deployment_id or 0,
            "hour": one.judged_at // HOUR,
        }
        here = and_(*(hourly.c[name] == value for name, value in place.items()))
        row = connection.execute(select(hourly).where(here)).first()
        scores = json.loads(row.scores) if row else [0] * BINS
        if one.score is not None and one.threshold:
            scores[bin_of(one.score / one.threshold)] += 1
        total = one.ms.get("total", 0.0)
        values: dict[str, Any] = {
            one.verdict: (getattr(row, one.verdict) if row else 0) + 1,
            "scores": as_text(scores),
            "ms_sum": (row.ms_sum if row else 0.0) + total,
            "ms_max": max(row.ms_max if row else 0.0, total),
            "brightness_sum": (row.brightness_sum if row else 0.0) + one.health.get("brightness", 0.0),
            "focus_sum": (row.focus_sum if row else 0.0) + one.health.get("focus", 0.0),
        }
        if row:
            connection.execute(update(hourly).where(here).values(**values))
        else:
            connection.execute(insert(hourly).values(**place, **values))


def bin_of(ratio: float) -> int:
    """The bin of a score over its threshold: logarithmic from 1/16 to 16, the ends take the rest."""
    if not ratio > 0:
        return 0
    return int(np.clip((np.log2(ratio) + 4) / 8 * BINS, 0, BINS - 1))
