"""What a station keeps when everything goes wrong, and how fast it is. Writes docs/results/station.md.

    python benchmarks/station.py [--parts kill,order,load,locked,broken,disk,swap] [--pictures 20000] [--kills 100] [--page docs/results/station.md]

A station of its own in a temporary folder (`--work`), with a small `padim` model; its processes are those of `blemish station serve`.
kill    pictures by hot folder and HTTP, while worker, web or both are killed at random moments
order   the system calls of one picture, by strace: durable in the spool < durable row < answer < moved to the store
load    pictures a second by HTTP, with full durability and four readers: latency to the durable verdict, memory
locked  the ledger held by another program for 30 s
broken  1,000 damaged files
disk    a file system of 96 MB that fills up
swap    50 changes of the model at 30 pictures a second: the deployment of each row gives its score again
Figures are kept in .bench/station/.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import httpx
import numpy as np
from kept import kept
from PIL import Image
from sqlalchemy import insert, select

from blemish import Detector
from blemish.files import write_whole
from blemish.inspection import modelfile
from blemish.inspection.inspector import Inspector
from blemish.station.ids import now_ms
from blemish.station.ledger.schema import inspections, sinks, sources, tokens
from blemish.station.models import deploy, folder_of, import_model
from blemish.station.setup import init, opened, source_named

OUT = Path(".bench/station")
SIDE = (120, 160)  # height, width of a picture
SEED = 0


def picture(seed: int) -> np.ndarray[Any, Any]:
    """A drawn part: stripes with noise; every seventh has a bright spot."""
    generator = np.random.default_rng([SEED, seed])
    y, x = np.mgrid[: SIDE[0], : SIDE[1]]
    plain = 110 + 60 * np.sin(x / 7) + generator.normal(0, 6, SIDE)
    if seed % 7 == 3:
        at = generator.integers(20, 90, 2)
        plain[at[0] : at[0] + 14, at[1] : at[1] + 14] = 250
    return plain.clip(0, 255).astype(np.uint8)


def encoded(seed: int, folder: Path) -> bytes:
    path = folder / f"{seed}.png"
    if not path.exists():
        Image.fromarray(picture(seed)).save(path)
    return path.read_bytes()


class Station:
    """A station with a hot folder and an HTTP source, and its processes."""

    def __init__(self, work: Path, *, root: Path | None = None) -> None:
        self.work = work
        self.hot, self.kept = work / "hot", work / "pictures"
        for folder in (self.hot, self.kept):
            folder.mkdir(parents=True, exist_ok=True)
        self.model = work / "model"
        if not self.model.exists():
            good = work / "good"
            good.mkdir()
            for seed in range(1_000_000, 1_000_060):
                Image.fromarray(picture(seed * 7)).save(good / f"{seed}.png")
            Detector("padim", image_size="96", cache=False).fit(good).save(self.model)
        self.place = init(root or work / "station", roots=(str(self.hot),))
        self.port = _free_port()
        _, self.config, self.ledger = opened(self.place.root)
        self.token = secrets.token_urlsafe(24)
        config = json.dumps({"path": str(self.hot), "settle": 0.05, "scan": 0.05})
        with self.ledger.write() as connection:
            connection.execute(insert(sources).values(name="cam1", kind="folder", config=config, product_id=1))
            digest = hashlib.sha256(self.token.encode()).hexdigest()
            connection.execute(insert(tokens).values(name="bench", sha256=digest, scopes="send read admin"))
            connection.execute(insert(sinks).values(name="lines", kind="file", config="{}"))
        number = import_model(self.place, self.ledger, self.model)
        for name in ("cam1", "http"):
            source = source_named(self.ledger, name)
            with self.ledger.write() as connection:
                deploy(connection, source, number, "benchmark", "first")
        self.number = number

    @contextmanager
    def serving(self) -> Iterator[subprocess.Popen[bytes]]:
        """`blemish station serve`, until the block ends."""
        log = (self.work / "serve.log").open("ab")
        command = [sys.executable, "-m", "blemish", "station", "serve", str(self.place.root), "--port", str(self.port)]
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            self.until(self.ready, 60)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            log.close()

    def ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def head(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def until(self, met: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not met():
            if time.monotonic() > end:
                raise SystemExit(f"not reached in {seconds} s; see {self.work / 'serve.log'}")
            time.sleep(0.05)

    def rows(self) -> list[Any]:
        with self.ledger.read() as connection:
            return list(connection.execute(select(inspections)).mappings())

    def post(self, client: httpx.Client, seed: int, *, wait: str = "verdict", key: str | None = None) -> httpx.Response:
        return client.post(
            f"{self.url}/api/v1/inspections",
            params={"source": "http", "part_id": str(seed), "wait": wait},
            content=encoded(seed, self.kept),
            headers={**self.head, "Idempotency-Key": key or f"part-{seed}", "Content-Type": "image/png"},
            timeout=60,
        )

    def drop(self, seed: int) -> None:
        """Into the hot folder, as a camera does: under another name first."""
        part = self.hot / f"{seed}.png.part"
        part.write_bytes(encoded(seed, self.kept))
        part.rename(self.hot / f"{seed}.png")


def processes(parent: int) -> dict[str, int]:
    """The worker's and the web's process of a `serve`."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "status").read_text()
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if re.search(rf"^PPid:\s+{parent}$", status, re.M):
            found |= {name: int(folder.name) for name in ("worker", "web") if name.encode() in words}
    return found


def kill(work: Path, count: int, kills: int) -> dict[str, Any]:
    """Half of the pictures by folder, half by HTTP, sent again until they are accepted."""
    station = Station(work)
    done = threading.Event()
    killed: Counter[str] = Counter()
    draw = random.Random(SEED)

    def by_folder() -> None:
        for seed in range(0, count, 2):
            while len(os.listdir(station.hot)) > 400:
                time.sleep(0.05)
            station.drop(seed)

    retried = Counter[str]()

    def by_http(start: int) -> None:
        with httpx.Client() as client:
            for seed in range(start, count, 8):
                while True:
                    try:
                        answer = station.post(client, seed, wait=draw.choice(["verdict", "accepted"]))
                        if answer.status_code in (200, 202):
                            break
                        retried[str(answer.status_code)] += 1
                    except httpx.HTTPError as error:
                        retried[type(error).__name__] += 1
                    time.sleep(0.1)

    with station.serving() as serve:
        feeders = [threading.Thread(target=by_folder)]
        feeders += [threading.Thread(target=by_http, args=(start,)) for start in (1, 3, 5, 7)]
        for each in feeders:
            each.start()
        while sum(killed.values()) < kills:
            time.sleep(draw.uniform(0.3, 3.0))
            which = draw.choice(["worker", "web", "both"])
            there = processes(serve.pid)
            for name in ("worker", "web") if which == "both" else (which,):
                if name in there:
                    os.kill(there[name], signal.SIGKILL)
            killed[which] += 1
        for each in feeders:
            each.join()
        done.set()
        station.until(lambda: len(os.listdir(station.hot)) == 0, 600)
        station.until(lambda: not list(station.place.spool.glob("*/*.png")), 600)
        station.until(lambda: _sent(station) >= len(station.rows()), 600)
    return {"pictures": count, "kills": dict(killed), "retried": dict(retried), **_audited(station, range(count))}


def _sent(station: Station) -> int:
    with station.ledger.read() as connection:
        return int(
            connection.exec_driver_sql("SELECT COUNT(DISTINCT seq) FROM outbox WHERE done_at IS NOT NULL").scalar() or 0
        )


def _audited(station: Station, seeds: range) -> dict[str, Any]:
    """What became of all that was sent."""
    rows = station.rows()
    line = Inspector(modelfile.load(folder_of(station.place, _digest(station))), threads=1)
    named = Counter(row["part_id"] or Path(row["name"]).stem for row in rows if row["state"] != "repeat")
    expected = {str(seed) for seed in seeds}
    unequal = sum(
        row["score"] != line.inspect(encoded(int(row["part_id"] or Path(row["name"]).stem), station.kept)).score
        for row in rows
        if row["state"] == "judged"
    )
    missing = sum(
        not station.place.stored(row["id"], row["suffix"]).exists() for row in rows if row["state"] == "judged"
    )
    gaps = 0
    for source in {row["source_id"] for row in rows}:
        numbers = sorted(row["claim"] for row in rows if row["source_id"] == source)
        gaps += numbers != list(range(1, len(numbers) + 1))
    with station.ledger.read() as connection:
        told = Counter(connection.exec_driver_sql("SELECT seq FROM outbox").scalars().all())
    verify = subprocess.run(
        [sys.executable, "-m", "blemish", "station", "verify", str(station.place.root)],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "rows": len(rows),
        "repeats": sum(row["state"] == "repeat" for row in rows),
        "lost": len(expected - named.keys()),
        "doubled": sum(number > 1 for name, number in named.items() if name in expected),
        "scores_unequal": unequal,
        "pictures_missing": missing,
        "sources_with_gaps": gaps,
        "verdicts_without_message": sum(row["seq"] not in told for row in rows if row["state"] != "repeat"),
        "verify": verify.returncode,
    }


def _digest(station: Station) -> str:
    with station.ledger.read() as connection:
        return str(connection.exec_driver_sql("SELECT digest FROM models WHERE id = ?", (station.number,)).scalar())


def load(work: Path, rate: float, seconds: float) -> dict[str, Any]:
    """Pictures by HTTP at a rate, each in time whatever became of the one before, with four readers of the live page."""
    station = Station(work)
    times: list[float] = []
    lock = threading.Lock()
    count = int(rate * seconds)
    for seed in range(count):
        encoded(seed, station.kept)
    stop = threading.Event()

    def reader() -> None:
        after = 0
        with httpx.Client() as client:
            while not stop.is_set():
                answer = client.get(
                    f"{station.url}/api/v1/live", params={"after_seq": after}, headers=station.head, timeout=30
                )
                rows = answer.json().get("inspections", []) if answer.status_code == 200 else []
                after = max([after, *(row["seq"] for row in rows)])
                time.sleep(0.5)

    def sender(which: int, of: int, start: float) -> None:
        with httpx.Client() as client:
            for seed in range(which, count, of):
                time.sleep(max(0.0, start + seed / rate - time.monotonic()))
                due = start + seed / rate
                answer = station.post(client, seed)
                if answer.status_code == 200:
                    with lock:
                        times.append(time.monotonic() - due)

    memory: dict[str, list[int]] = {"worker": [], "web": []}
    with station.serving() as serve:
        readers = [threading.Thread(target=reader) for _ in range(4)]
        start = time.monotonic() + 1
        senders = [threading.Thread(target=sender, args=(k, 16, start)) for k in range(16)]
        for each in (*readers, *senders):
            each.start()
        while any(each.is_alive() for each in senders):
            for name, pid in processes(serve.pid).items():
                memory[name].append(_rss(pid))
            time.sleep(1)
        stop.set()
        ended = time.monotonic()
    ordered = sorted(times)
    return {
        "asked_per_second": rate,
        "seconds": seconds,
        "answered": len(times),
        "per_second": len(times) / (ended - start),
        "p50_ms": 1e3 * median(ordered),
        "p99_ms": 1e3 * ordered[int(0.99 * len(ordered))],
        "rss_mb": {name: [values[len(values) // 4], values[-1]] for name, values in memory.items() if values},
    }


def _rss(pid: int) -> int:
    try:
        return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text()).group(1)) // 1024  # type: ignore[union-attr]
    except (OSError, AttributeError):
        return 0


def order(work: Path) -> dict[str, Any]:
    """One picture by HTTP, its system calls in the order in which they returned."""
    station = Station(work)
    with station.serving() as serve:
        pids = processes(serve.pid)
        out = work / "calls.txt"
        tracer = subprocess.Popen(
            [
                "strace",
                "-f",
                "-ttt",
                "-y",
                "-e",
                "trace=fsync,fdatasync,rename,renameat,renameat2,sendto,sendmsg,write,writev",
                "-o",
                str(out),
            ]
            + [word for pid in pids.values() for word in ("-p", str(pid))],
            stderr=subprocess.DEVNULL,
        )
        time.sleep(2)
        with httpx.Client() as client:
            answer = station.post(client, 1)
        time.sleep(1)
        tracer.send_signal(signal.SIGINT)
        tracer.wait()
    picture_id = answer.json()["id"]
    lines = sorted(out.read_text(errors="replace").splitlines(), key=lambda text: float(text.split()[1]))
    spool, store = "/spool/", "/store/"

    def first(pattern: str, after: int = -1) -> int:
        return next(k for k, text in enumerate(lines) if k > after and re.search(pattern, text))

    synced = first(rf"fsync\(\d+<[^>]*{spool}[^>]*partial")
    renamed = first(rf'rename\S*\(.*{spool}.*{picture_id}\.png"', synced)
    folder = first(rf"fsync\(\d+<[^>]*{spool}\d+>", renamed)
    row = first(r"f(data)?sync\(\d+<[^>]*ledger\.db-wal", folder)
    answered = first(r"(sendto|write|sendmsg|writev)\(\d+<[^>]*(TCP|socket)[^>]*>.*HTTP/1\.1 200", row)
    moved = first(rf'rename\S*\(.*{spool}.*{picture_id}\.png".*{store}', row)
    return {
        "order": [
            "picture synced",
            "renamed into the spool",
            "its folder synced",
            "row synced",
            "answered",
            "moved to the store",
        ],
        "positions": [synced, renamed, folder, row, answered, moved],
        "kept": synced < renamed < folder < row < min(answered, moved),
    }


def locked(work: Path, seconds: float = 30) -> dict[str, Any]:
    """Another program holds the ledger; pictures go on coming by folder."""
    station = Station(work)
    with station.serving():
        station.drop(0)
        station.until(lambda: len(station.rows()) == 1, 60)
        holder = sqlite3.connect(station.place.root / "ledger.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        start = time.monotonic()
        sent = 1
        while time.monotonic() - start < seconds:
            station.drop(sent)
            sent += 1
            time.sleep(0.1)
        during = len(station.rows())
        holder.execute("ROLLBACK")
        holder.close()
        station.until(lambda: len(station.rows()) == sent, 120)
    with station.ledger.read() as connection:
        alarms = connection.exec_driver_sql("SELECT kind FROM alarms").scalars().all()
    return {
        "seconds": seconds,
        "rows_while_locked": during,
        "alarms": sorted(set(alarms)),
        **_audited(station, range(sent)),
    }


def broken(work: Path, count: int = 1000) -> dict[str, Any]:
    """Pictures with bytes changed, cut or added, and files of other kinds under a picture's name, by HTTP."""
    station = Station(work)
    draw = np.random.default_rng(SEED)
    answers: Counter[str] = Counter()
    with station.serving(), httpx.Client() as client:
        for seed in range(count):
            data = bytearray(encoded(seed % 50, station.kept))
            match seed % 4:
                case 0:
                    data = data[: int(draw.integers(0, len(data)))]
                case 1:
                    for at in draw.integers(0, len(data), 20):
                        data[at] = int(draw.integers(0, 256))
                case 2:
                    data = bytearray(draw.bytes(int(draw.integers(1, 5000))))
                case 3:
                    data += draw.bytes(100)
            answer = client.post(
                f"{station.url}/api/v1/inspections",
                params={"source": "http", "wait": "verdict"},
                content=bytes(data),
                headers={**station.head, "Content-Type": "image/png"},
                timeout=60,
            )
            answers[str(answer.status_code)] += 1
        station.post(client, 1)
        well = station.ready()
    rows = station.rows()
    states = Counter(f"{row['state']}: {row['verdict']}" for row in rows)
    traces = (work / "serve.log").read_text(errors="replace").count("Traceback")
    return {
        "files": count,
        "answers": dict(answers),
        "rows": dict(states),
        "ready_afterwards": well,
        "tracebacks": traces,
    }


def disk(work: Path) -> dict[str, Any]:
    """A file system of 96 MB, filled while pictures come; then emptied again. Needs the right to mount."""
    mount = work / "small"
    mount.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96m", "tmpfs", str(mount)], check=True)
    try:
        station = Station(work, root=mount / "station")
        accepted, refused = [], Counter[str]()
        with station.serving(), httpx.Client() as client:
            filler = mount / "filler"
            for seed in range(200):
                if seed == 50:
                    free = shutil.disk_usage(mount).free
                    filler.write_bytes(b"\0" * max(0, free - 300_000))
                if seed == 150:
                    filler.unlink()
                    time.sleep(3)
                try:
                    answer = station.post(client, seed)
                    if answer.status_code == 200:
                        accepted.append(seed)
                    else:
                        refused[str(answer.status_code)] += 1
                except httpx.HTTPError as error:
                    refused[type(error).__name__] += 1
        rows = {row["part_id"] for row in station.rows()}
        traces = (work / "serve.log").read_text(errors="replace").count("Traceback")
        return {
            "accepted": len(accepted),
            "refused": dict(refused),
            "accepted_without_row": len({str(seed) for seed in accepted} - rows),
            "accepted_after_space": sum(seed >= 150 for seed in accepted),
            "tracebacks": traces,
        }
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=False)


def swap(work: Path, swaps: int = 50, rate: float = 30) -> dict[str, Any]:
    """Two models in turn."""
    station = Station(work)
    other = work / "other"
    Detector("padim", image_size="64", cache=False).fit(work / "good").save(other)
    second = import_model(station.place, station.ledger, other)
    source = source_named(station.ledger, "http")
    stop = threading.Event()
    sent = []

    def sender() -> None:
        with httpx.Client() as client:
            seed = 0
            while not stop.is_set():
                begun = time.monotonic()
                station.post(client, seed)
                sent.append(seed)
                seed += 1
                time.sleep(max(0.0, 1 / rate - (time.monotonic() - begun)))

    with station.serving():
        thread = threading.Thread(target=sender)
        thread.start()
        for k in range(swaps):
            time.sleep(1.2)
            with station.ledger.write() as connection:
                deploy(connection, source, second if k % 2 == 0 else station.number, "benchmark", "swap")
        stop.set()
        thread.join()
    rows = [row for row in station.rows() if row["state"] == "judged"]
    lines = {
        number: Inspector(modelfile.load(path), threads=1)
        for number, path in ((station.number, station.model), (second, other))
    }
    with station.ledger.read() as connection:
        model_of = dict(connection.exec_driver_sql("SELECT id, model_id FROM deployments").tuples().all())
    unequal = sum(
        row["score"] != lines[model_of[row["deployment_id"]]].inspect(encoded(int(row["part_id"]), station.kept)).score
        for row in rows
    )
    return {
        "swaps": swaps,
        "sent": len(sent),
        "rows": len(rows),
        "deployments_used": len({row["deployment_id"] for row in rows}),
        "scores_unequal": unequal,
    }


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def page(found: dict[str, dict[str, Any]], command: str) -> str:
    lines = [
        "# What a station keeps",
        "",
        f"Made by `{command}` on two cores. The station is that of `blemish station serve`, with full durability, SQLite, a",
        "small `padim` model and drawn pictures.",
        "",
    ]
    for name, text in TEXTS.items():
        if name in found:
            lines += [f"## {text[0]}", text[1], "", "| | |", "|---|---|"]
            lines += [
                f"| {key.replace('_', ' ')} | {_shown(value)} |"
                for key, value in found[name].items()
                if key != "positions"
            ]
            lines.append("")
    return "\n".join(lines)


TEXTS = {
    "kill": (
        "Killed at random moments",
        "Worker, web or both by `kill -9`; what was not accepted is sent again with the same key.",
    ),
    "order": ("Order of system calls", "Of one picture by HTTP, from strace."),
    "load": (
        "Load",
        "By HTTP with `wait=verdict`, each picture sent in time; the time counts from when it was due to the answer, which follows the commit.",
    ),
    "locked": ("Ledger locked", "By another program; pictures come by hot folder, ten a second."),
    "broken": ("Damaged files", "Cut, changed, noise, and with something behind their end."),
    "disk": ("Disk full", "Filled after 50 of 200 pictures, emptied after 150."),
    "swap": (
        "Change of the model under load",
        "The score of each row is computed again by the model of its deployment.",
    ),
}


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_shown(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "none"
    return str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(TEXTS))
    parser.add_argument("--pictures", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--rate", type=float, default=60)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--page", type=Path)
    args = parser.parse_args()
    makers: dict[str, Callable[[Path], dict[str, Any]]] = {
        "kill": lambda work: kill(work, args.pictures, args.kills),
        "order": order,
        "load": lambda work: load(work, args.rate, args.seconds),
        "locked": locked,
        "broken": broken,
        "disk": disk,
        "swap": swap,
    }
    parts = args.parts.split(",")
    if unknown := set(parts) - makers.keys():
        raise SystemExit(f"no part {', '.join(sorted(unknown))}: {', '.join(makers)}")
    found = {}
    for name in parts:
        work = (args.work or Path(tempfile.gettempdir())) / f"station-{name}-{now_ms()}"
        work.mkdir(parents=True)
        found[name] = kept(args.out / f"{name}.json", lambda name=name, work=work: makers[name](work))  # type: ignore[misc]
        print(name, json.dumps(found[name]), flush=True)
        shutil.rmtree(work, ignore_errors=True)
    told = {name: getattr(args, name) for name in ("parts", "pictures", "kills", "rate", "seconds")}
    changed = [f" --{name} {value}" for name, value in told.items() if value != parser.get_default(name)]
    text = page(found, f"python benchmarks/station.py{''.join(changed)}")
    write_whole(args.page, text.encode()) if args.page else print(text)


if __name__ == "__main__":
    main()
