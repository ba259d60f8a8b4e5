"""Figures of a station for Prometheus: read from the ledger when they are asked for."""

from __future__ import annotations

import threading
from collections import Counter as Counts
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select

from blemish.errors import DataError
from blemish.station import disk
from blemish.station.blocks import drifts
from blemish.station.durations import BUCKETS, rows
from blemish.station.ids import now_ms
from blemish.station.ledger.database import Ledger
from blemish.station.ledger.schema import (
    alarms,
    deployments,
    hourly,
    inspections,
    models,
    outbox,
    products,
    queue,
    sinks,
    sources,
)
from blemish.station.place import Place
from blemish.station.promise import promises
from blemish.station.reading import VERDICTS
from blemish.station.sources.http import beat
from blemish.station.spool import Claim, Spool

STATES = ("judged", "unreadable", "failed", "repeat")


class Metrics(Collector):
    """One for each application."""

    def __init__(self, place: Place, ledger: Ledger, spool: Spool) -> None:
        self.place, self.ledger, self.spool = place, ledger, spool
        self.registry = CollectorRegistry()
        self.refused = Counter(
            "blemish_refused_total", "Pictures that were not taken in", ["reason"], registry=self.registry
        )
        self.seconds = Histogram(
            "blemish_inspection_seconds",
            "Of one picture: from its claim to the judge, of the model, and of judging",
            ["stage"],
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._ends: Counts[tuple[int, str]] = Counts()  # rows by source and state, up to `_counted`
        self._counted = 0
        self._lock = threading.Lock()
        self.registry.register(self)

    def text(self) -> bytes:
        """All figures, in the format of Prometheus."""
        return generate_latest(self.registry)

    def seen(self, row: Any) -> None:
        """A new row of the ledger."""
        for stage in ("wait", "infer", "total"):
            value = getattr(row, f"ms_{stage}")
            if value is not None:
                self.seconds.labels(stage).observe(value / 1000)

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are known once the ledger was read."""
        return []

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        with self._lock:
            claims = [self._read(source_id, picture) for picture, source_id in self.spool.ids()]
            with self.ledger.read() as connection:  # after the claims, which go from the spool to the ledger
                names = {row.id: row.name for row in connection.execute(select(sources.c.id, sources.c.name))}
                ids = [claim.id for claim in claims if claim is not None]
                ended = set(connection.scalars(select(inspections.c.id).where(inspections.c.id.in_(ids))))
                yield from self._judged(connection)
                yield from self._law(connection, names, [each for each in claims if each and each.id not in ended])
                yield from self._state(connection, names)

    def _read(self, source_id: int, picture: str) -> Claim | None:
        try:
            return self.spool.read(source_id, picture)
        except DataError:  # no claim can be told from it: the law shows it as missing, and the worker's alarm says so
            return None

    def _judged(self, connection: Any) -> Iterable[Metric]:
        family = CounterMetricFamily(
            "blemish_inspections", "Verdicts without repeats", labels=["source", "product", "verdict"]
        )
        asked = (
            select(
                sources.c.name.label("source"),
                products.c.name.label("product"),
                *(func.sum(hourly.c[verdict]).label(verdict) for verdict in VERDICTS),
            )
            .join(sources, sources.c.id == hourly.c.source_id)
            .outerjoin(products, products.c.id == hourly.c.product_id)
            .group_by(sources.c.name, products.c.name)
        )
        for row in connection.execute(asked).mappings():
            for verdict in VERDICTS:
                family.add_metric([row["source"], row["product"] or "", verdict], int(row[verdict]))
        yield family

    def _law(self, connection: Any, names: dict[int, str], waiting: list[Claim]) -> Iterable[Metric]:
        """claimed = judged + unreadable + failed + repeats + waiting, by source."""
        ended = connection.execute(
            select(inspections.c.source_id, inspections.c.state, func.count(), func.max(inspections.c.seq))
            .where(inspections.c.seq > self._counted)
            .group_by(inspections.c.source_id, inspections.c.state)
        ).all()
        for source_id, state, count, seq in ended:
            self._ends[source_id, state] += count
            self._counted = max(self._counted, seq)
        last = select(inspections.c.source_id, func.max(inspections.c.claim)).group_by(inspections.c.source_id)
        claims = {source_id: number for source_id, number in connection.execute(last)}
        claimed = CounterMetricFamily("blemish_claimed", "Pictures that were taken in", labels=["source"])
        ends = CounterMetricFamily("blemish_ended", "Claims whose end is recorded", labels=["source", "state"])
        wait = GaugeMetricFamily("blemish_waiting", "Claims that wait to be judged", labels=["source"])
        for source_id, name in names.items():
            numbers = [claim.number for claim in waiting if claim.source_id == source_id]
            claimed.add_metric([name], max([claims.get(source_id, 0), *numbers]))
            wait.add_metric([name], len(numbers))
            for state in STATES:
                ends.add_metric([name, state], self._ends[source_id, state])
        yield from (claimed, ends, wait)
        oldest = max([0.0, *((now_ms() - claim.at) / 1000 for claim in waiting)])
        yield GaugeMetricFamily("blemish_oldest_seconds", "That the oldest claim has waited", value=oldest)

    def _state(self, connection: Any, names: dict[int, str]) -> Iterable[Metric]:
        pending = GaugeMetricFamily("blemish_outbox_pending", "Messages not yet delivered", labels=["sink"])
        asked = (
            select(sinks.c.name, func.count(outbox.c.id))
            .outerjoin(outbox, (outbox.c.sink_id == sinks.c.id) & outbox.c.done_at.is_(None))
            .group_by(sinks.c.name)
        )
        for name, count in connection.execute(asked):
            pending.add_metric([name], count)
        lanes = GaugeMetricFamily("blemish_review_waiting", "Parts that wait for a person", labels=["lane"])
        asked = select(queue.c.lane, func.count()).where(queue.c.state == "waiting").group_by(queue.c.lane)
        for lane, count in connection.execute(asked):
            lanes.add_metric([lane], count)
        opened = GaugeMetricFamily("blemish_alarms_open", "Alarms whose cause is not gone", labels=["level"])
        asked = select(alarms.c.level, func.count()).where(alarms.c.cleared_at.is_(None)).group_by(alarms.c.level)
        counts = {level: count for level, count in connection.execute(asked)}
        for level in ("amber", "red"):
            opened.add_metric([level], counts.get(level, 0))
        live = GaugeMetricFamily("blemish_deployment_info", "What is live", labels=["source", "model", "promise"])
        asked = (
            select(deployments.c.source_id, models.c.digest, models.c.promise)
            .join(models, models.c.id == deployments.c.model_id)
            .where(deployments.c.until.is_(None))
        )
        for source_id, digest, promise in connection.execute(asked):
            live.add_metric([names[source_id], digest, promise or ""], 1)
        yield from (pending, lanes, opened, live)
        yield GaugeMetricFamily(
            "blemish_disk_free_ratio", "Share of the disk that is free", value=disk.level(self.place)[1]
        )
        yield from self._promised(connection)
        silent, says = beat(connection)
        for name, what, key in (
            ("ledger_commit", "Of the worker's commits of verdicts", "commits"),
            ("model_swap", "From the approval of a model that is seen to its first picture", "swaps"),
        ):
            if key in says:
                yield HistogramMetricFamily(f"blemish_{name}_seconds", what, rows(says[key]), says[key]["sum"])
        equal = GaugeMetricFamily(
            "blemish_golden_equal", "Whether golden pictures score as approved", labels=["source"]
        )
        for source_id in {*says.get("live", []), *says.get("unequal", [])}:
            if source_id in names:
                equal.add_metric([names[source_id]], float(source_id not in says.get("unequal", [])))
        yield equal
        age = -1.0 if silent is None else silent / 1000
        yield GaugeMetricFamily("blemish_worker_silent_seconds", "Since the worker has said that it lives", value=age)

    def _promised(self, connection: Any) -> Iterable[Metric]:
        """What is seen of the promise, and what speaks for drift."""
        ends = {
            name: GaugeMetricFamily(f"blemish_far_{name}", "Share of good parts that are rejected", labels=["source"])
            for name in ("estimate", "lower", "upper")
        }
        for each in promises(connection):
            for name, value in zip(ends, (each["share"], each["lower"], each["upper"]), strict=True):
                if value is not None:
                    ends[name].add_metric([each["source"]], value)
        yield from ends.values()
        drift = GaugeMetricFamily(
            "blemish_drift_evidence", "That accepted parts come otherwise than before", labels=["source", "monitor"]
        )
        for each in drifts(connection):
            for name, monitor in each["monitors"].items():
                drift.add_metric([each["source"], name], monitor["evidence"])
        yield drift
