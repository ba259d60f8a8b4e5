"""Messages go to each sink in order, at least once, with the same id; receivers may be down, slow, or refuse."""

from __future__ import annotations

import getpass
import hashlib
import hmac
import http.server
import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from sqlalchemy import insert, update

from blemish.errors import ConfigError
from blemish.station import audit, outbox
from blemish.station.ids import new_id, now_ms
from blemish.station.ledger.schema import alarms, sinks
from blemish.station.ledger.schema import outbox as table
from blemish.station.outbox import Outbox, again
from blemish.station.sinks import HIDDEN, get, kinds, made, merged, shown
from blemish.station.sinks.base import Message, Undelivered
from tests.fakes import good_image
from tests.unit.station.conftest import Station, both, put

SECRET = "a secret of 16 or more"
DAY = 1_796_083_200_000  # 2026-12-01 00:00 UTC, ms


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST", 0.05)
    monkeypatch.setattr(outbox, "LONGEST", 0.2)
    monkeypatch.setattr(outbox, "LOOK", 0.05)


@contextmanager
def sending(station: Station, *allow: str) -> Iterator[Outbox]:
    stop = threading.Event()
    one = Outbox(station.place, replace(station.config, allow=allow), station.ledger)
    thread = threading.Thread(target=one.run, args=(stop,))
    thread.start()
    try:
        yield one
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def add(station: Station, kind: str, options: dict[str, Any], name: str = "") -> int:
    with station.ledger.write() as connection:
        row = insert(sinks).values(name=name or kind, kind=kind, config=json.dumps(options))
        key = connection.execute(row).inserted_primary_key
        assert key is not None
        return int(key[0])


def fill(station: Station, sink: int, count: int, at: int = DAY) -> list[str]:
    ids = [new_id() for _ in range(count)]
    rows = [
        {"sink_id": sink, "at": now_ms(), "payload": json.dumps({"inspection_id": one, "at": at, "source": "cam1"})}
        for one in ids
    ]
    with station.ledger.write() as connection:
        connection.execute(insert(table), rows)
    return ids


def waiting(station: Station) -> int:
    return sum(row["done_at"] is None and row["failed_at"] is None for row in station.rows(table))


class Receiver:
    """A web server that keeps what it gets, and answers what it is told to."""

    def __init__(self, port: int = 0) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.answer: Callable[[int], int] = lambda count: 204
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((self.headers["Blemish-Id"], dict(self.headers), body))
                status = receiver.answer(len(receiver.got))
                self.send_response(status)
                if status in (301, 302, 307):
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.origin = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def ids(self) -> list[str]:
        return [key for key, _, _ in self.got]

    def options(self, **more: Any) -> dict[str, Any]:
        return {"url": f"{self.origin}/hook?line=1", "secret": SECRET, **more}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.close()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


# the list of sinks, and their options


def test_the_folder_is_the_list_of_sinks() -> None:
    assert kinds() == ["file", "mqtt", "webhook"]
    assert [get(kind).__module__.rpartition(".")[2] for kind in kinds()] == kinds()
    with pytest.raises(ConfigError, match="no sink of kind 'fax'"):
        get("fax")


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("file", {"folder": "/etc"}, "none of the roots"),
        ("file", {"folder": "../beside"}, "none of the roots"),
        ("file", {"folder": "spool/1"}, "station's own"),
        ("file", {"colour": "red"}, "colour"),
        ("webhook", {"secret": SECRET}, "url"),
        ("webhook", {"url": "http://mes/x", "secret": "short"}, "secret"),
        ("webhook", {"url": "http://mes.evil/x", "secret": SECRET}, "does not allow"),
        ("webhook", {"url": "http://mes@evil/x", "secret": SECRET}, "does not allow"),
        ("webhook", {"url": "http://mes:81/x", "secret": SECRET}, "does not allow"),
        ("webhook", {"url": "file:///etc/passwd", "secret": SECRET}, "no URL of http or https"),
        ("webhook", {"url": "https://mes/x", "secret": SECRET, "ca": "/etc/passwd"}, "none of the roots"),
        ("webhook", {"url": "https://mes/x", "secret": SECRET, "ca": "nothing.pem"}, "nothing.pem"),
        ("webhook", {"url": "http://mes/x", "secret": SECRET, "timeout": 0}, "timeout"),
        ("mqtt", {"url": "http://mes"}, "no URL of mqtt or mqtts"),
        ("mqtt", {"url": "mqtt://other"}, "does not allow"),
        ("mqtt", {"url": "mqtt://broker", "keepalive": 0}, "keepalive"),
    ],
)
def test_options_that_cannot_be_are_said(station: Station, kind: str, options: dict[str, Any], says: str) -> None:
    config = replace(station.config, allow=("http://mes", "https://mes", "mqtt://broker"))
    with pytest.raises(ConfigError, match=says) as caught:
        made(kind, "one", options, station.place, config)
    assert SECRET not in str(caught.value)


def test_secrets_are_not_shown_and_stay_where_they_are_not_changed() -> None:
    options = {"url": "http://mes", "secret": SECRET}
    assert shown("webhook", options) == {"url": "http://mes", "secret": HIDDEN}
    assert merged("webhook", {"url": "http://new", "secret": HIDDEN}, options) == {
        "url": "http://new",
        "secret": SECRET,
    }
    assert merged("webhook", {"url": "http://new", "secret": "x" * 16}, options)["secret"] == "x" * 16


# files


@both
def test_verdicts_of_the_line_become_lines_of_the_day_s_file(station: Station) -> None:
    add(station, "file", {})
    for index in range(3):
        put(station.hot, f"{index}.png", good_image(index))
    with station.running():
        station.until(lambda: len(station.rows()) == 3 and waiting(station) == 0)
    lines = [line for path in (station.place.root / "results").iterdir() for line in path.read_text().splitlines()]
    assert [json.loads(line)["seq"] for line in lines] == sorted(row["seq"] for row in station.rows())
    assert all(row["done_at"] and row["tries"] == 0 for row in station.rows(table))


def test_a_file_holds_no_line_twice_after_a_kill_and_no_half_line(station: Station) -> None:
    sink = add(station, "file", {})
    ids = fill(station, sink, 5)
    late = fill(station, sink, 2, at=DAY + 86_400_000)
    with sending(station):
        station.until(lambda: waiting(station) == 0)
    first, second = sorted((station.place.root / "results").iterdir())
    whole = first.read_bytes()
    assert (first.name, second.name) == ("2026-12-01.jsonl", "2026-12-02.jsonl")
    first.write_bytes(whole[:-100])  # killed while it wrote: the fifth line is torn, nothing was marked
    with station.ledger.write() as connection:
        connection.execute(update(table).values(done_at=None))
    with sending(station):
        station.until(lambda: waiting(station) == 0)
    assert first.read_bytes() == whole
    assert [json.loads(line)["inspection_id"] for line in whole.splitlines()] == ids
    assert [json.loads(line)["inspection_id"] for line in second.read_text().splitlines()] == late


@pytest.mark.parametrize("text", ["name;value\n1;2\n", "half a line", '{"a": 1}\nhalf'])
def test_a_file_of_somebody_else_is_not_written_to(station: Station, text: str) -> None:
    folder = station.place.root / "results"
    folder.mkdir()
    (folder / "2026-12-01.jsonl").write_text(text)
    sink = made("file", "one", {}, station.place, station.config)
    with pytest.raises(Undelivered, match="not what this station has written"):
        list(sink.send([Message(1, "x", "cam1", DAY, '{"inspection_id":"x"}')]))
    assert (folder / "2026-12-01.jsonl").read_text() == text


# webhooks


@both
def test_a_webhook_gets_all_in_order_signed(station: Station, receiver: Receiver) -> None:
    sink = add(station, "webhook", receiver.options())
    ids = fill(station, sink, 30)
    with sending(station, receiver.origin):
        station.until(lambda: waiting(station) == 0)
    assert receiver.ids == ids
    for key, headers, body in receiver.got:
        assert json.loads(body)["inspection_id"] == key
        stamp, signature = (part.split("=")[1] for part in headers["Blemish-Signature"].split(","))
        expected = hmac.new(SECRET.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
        assert hmac.compare_digest(signature, expected)
        assert abs(time.time() - int(stamp)) < 600


def test_a_receiver_that_is_down_or_busy_gets_all_once_it_is_back(
    station: Station, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "LATE", 0.2)
    port = free_port()
    sink = add(station, "webhook", {"url": f"http://127.0.0.1:{port}/", "secret": SECRET})
    beside = add(station, "file", {})
    ids = fill(station, sink, 10, at=DAY)
    fill(station, beside, 10)
    with sending(station, f"http://127.0.0.1:{port}"):
        station.until(lambda: any(row["kind"] == "sink" for row in station.rows(alarms)))
        station.until(lambda: waiting(station) == 10)  # the other sink is not held up
        assert "refused" in next(row["text"] for row in station.rows(alarms)).lower()
        assert station.rows(table)[0]["tries"] > 0
        receiver = Receiver(port)
        receiver.answer = lambda count: (503, 429, 408, 500, 204)[count % 5]
        try:
            station.until(lambda: waiting(station) == 0)
            station.until(lambda: all(row["cleared_at"] for row in station.rows(alarms)))
        finally:
            receiver.close()
    assert list(dict.fromkeys(receiver.ids)) == ids  # in order
    assert not any(row["failed_at"] for row in station.rows(table))


def test_what_is_refused_again_and_again_is_kept_and_said_and_the_next_goes(
    station: Station, receiver: Receiver
) -> None:
    sink = add(station, "webhook", receiver.options())
    ids = fill(station, sink, 3)
    receiver.answer = lambda count: 422 if receiver.ids[-1] == ids[1] else 200
    with sending(station, receiver.origin):
        station.until(lambda: waiting(station) == 0)
        assert receiver.ids == [ids[0], *[ids[1]] * outbox.TRIES, ids[2]]
        bad = station.rows(table)[1]
        assert bad["done_at"] is None
        assert "422" in bad["last_error"]
        station.until(lambda: [row["kind"] for row in station.rows(alarms)] == ["undelivered"])
        receiver.answer = lambda count: 200
        with station.ledger.write() as connection:
            assert again(connection, audit.Actor("anna", "engineer"), sink) == 1
        station.until(lambda: all(row["done_at"] for row in station.rows(table)))
        station.until(lambda: all(row["cleared_at"] for row in station.rows(alarms)))
    assert receiver.ids[-1] == ids[1]


def test_a_redirect_is_not_followed(station: Station, receiver: Receiver) -> None:
    sink = add(station, "webhook", receiver.options())
    fill(station, sink, 1)
    receiver.answer = lambda count: 307
    with sending(station, receiver.origin):
        station.until(lambda: bool(station.rows(table)[0]["failed_at"]))
    assert len(receiver.got) == outbox.TRIES


def test_a_receiver_that_never_answers_holds_up_no_other_and_no_stop(station: Station) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        origin = f"http://127.0.0.1:{silent.getsockname()[1]}"
        slow = add(station, "webhook", {"url": origin, "secret": SECRET, "timeout": 0.3})
        beside = add(station, "file", {})
        fill(station, slow, 1)
        fill(station, beside, 1)
        with sending(station, origin):
            station.until(lambda: waiting(station) == 1)
            station.until(lambda: "timed out" in (station.rows(table)[0]["last_error"] or ""))


def test_a_connection_that_the_receiver_closes_while_idle_is_opened_again(station: Station, receiver: Receiver) -> None:
    sink = made("webhook", "one", receiver.options(), station.place, replace(station.config, allow=(receiver.origin,)))
    message = Message(1, "x", "cam1", DAY, "{}")
    assert list(sink.send([message])) == [1]
    link = sink._open.sock  # type: ignore[attr-defined]
    link.shutdown(socket.SHUT_RDWR)
    assert list(sink.send([message])) == [1]
    sink.close()


def test_tls_is_verified(station: Station, receiver: Receiver) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not on this computer")
    key, certificate = station.place.root / "key.pem", station.place.root / "ca.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    receiver.server.socket = context.wrap_socket(receiver.server.socket, server_side=True)
    url = f"https://127.0.0.1:{receiver.port}"
    config = replace(station.config, allow=(url,))
    message = Message(1, "x", "cam1", DAY, "{}")
    unknown = made("webhook", "one", {"url": url, "secret": SECRET}, station.place, config)
    with pytest.raises(Undelivered, match="certificate"):
        list(unknown.send([message]))
    known = made("webhook", "one", {"url": url, "secret": SECRET, "ca": "ca.pem"}, station.place, config)
    assert list(known.send([message])) == [1]
    known.close()


def test_a_sink_that_is_changed_or_cannot_be_is_taken_up_without_a_restart(
    station: Station, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "LATE", 0.0)
    sink = add(station, "webhook", {"url": "http://forbidden/", "secret": SECRET})
    ids = fill(station, sink, 2)
    with sending(station, receiver.origin):
        station.until(lambda: any("does not allow" in row["text"] for row in station.rows(alarms)))
        with station.ledger.write() as connection:
            connection.execute(update(sinks).values(config=json.dumps(receiver.options())))
        station.until(lambda: waiting(station) == 0)
        with station.ledger.write() as connection:
            connection.execute(update(sinks).values(active=False))
    assert receiver.ids == ids


CHILD = """
import sys
from dataclasses import replace
from blemish.station.setup import opened
from blemish.station.worker import Worker
place, config, ledger = opened(sys.argv[1])
Worker(place, replace(config, allow=(sys.argv[2],)), ledger).run()
"""


def test_a_worker_that_is_killed_while_it_sends_sends_again_with_the_same_ids(
    station: Station, receiver: Receiver
) -> None:
    sink = add(station, "webhook", receiver.options())
    ids = fill(station, sink, 120)

    def slow(count: int) -> int:
        time.sleep(0.01)
        return 200

    receiver.answer = slow
    command = [sys.executable, "-c", CHILD, str(station.place.root), receiver.origin]
    for most in (20, 70, 120):
        worker = subprocess.Popen(command)
        try:
            station.until(lambda most=most: len(set(receiver.ids)) >= most, 60)
            if most == 120:
                station.until(lambda: waiting(station) == 0)
        finally:
            worker.send_signal(signal.SIGKILL)
            worker.wait()
    assert sorted(set(receiver.ids)) == ids  # none is lost, and a repeat has its id
    assert list(dict.fromkeys(receiver.ids)) == ids
    bodies = {(key, body) for key, _, body in receiver.got}
    assert len(bodies) == len(ids)


# MQTT


class Broker:
    """mosquitto on a port of its own."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        if program is None:
            pytest.skip("the broker mosquitto is not on this computer")
        self.port = free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        settings = folder / "mosquitto.conf"
        settings.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nuser {getpass.getuser()}\n"
            f"persistence true\npersistence_location {folder}/\nmax_queued_messages 0\n"
        )
        self._command = [program, "-c", str(settings)]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < end, "mosquitto does not start"
                time.sleep(0.05)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


class Listener:
    """A client that keeps what it hears; the broker keeps for it what comes while it is away."""

    def __init__(self, broker: Broker) -> None:
        self.heard: list[tuple[str, bytes, bool]] = []
        ready = threading.Event()
        self.client = Client(CallbackAPIVersion.VERSION2, client_id="listener", clean_session=False)
        self.client.on_message = lambda client, data, one: self.heard.append((one.topic, one.payload, one.retain))
        self.client.on_connect = lambda client, *_: client.subscribe("blemish/#", qos=1)
        self.client.on_subscribe = lambda *_: ready.set()
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("127.0.0.1", broker.port, 10)
        self.client.loop_start()
        assert ready.wait(20)

    @property
    def ids(self) -> list[str]:
        return [json.loads(body)["inspection_id"] for topic, body, _ in self.heard if topic.endswith("/result")]

    @property
    def states(self) -> list[str]:
        return [body.decode() for topic, body, _ in self.heard if topic == "blemish/site/line/state"]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    one = Broker(tmp_path)
    yield one
    one.stop()


@both
def test_a_broker_gets_all_on_the_topic_of_the_source_and_the_state(station: Station, broker: Broker) -> None:
    sink = add(station, "mqtt", {"url": broker.url})
    ids = fill(station, sink, 250)
    listener = Listener(broker)
    with sending(station, broker.url):
        station.until(lambda: waiting(station) == 0)
        station.until(lambda: listener.ids == ids)
        assert listener.states == ["online"]
    station.until(lambda: listener.states == ["online", "offline"])
    listener.close()
    assert {topic for topic, _, _ in listener.heard} == {"blemish/site/line/cam1/result", "blemish/site/line/state"}
    after = Listener(broker)
    station.until(lambda: after.states == ["offline"])  # retained
    after.close()


def test_a_broker_that_goes_down_and_comes_back_has_lost_nothing(station: Station, broker: Broker) -> None:
    sink = add(station, "mqtt", {"url": broker.url, "timeout": 2})
    listener = Listener(broker)
    with sending(station, broker.url):
        ids = fill(station, sink, 50)
        station.until(lambda: len(set(listener.ids)) >= 10)
        station.until(lambda: waiting(station) == 0)
        broker.stop()
        ids += fill(station, sink, 150)
        station.until(lambda: any(row["tries"] for row in station.rows(table)))
        assert waiting(station) == 150
        broker.start()
        station.until(lambda: waiting(station) == 0)
        station.until(lambda: listener.states[-1:] == ["online"])
        station.until(lambda: set(listener.ids) == set(ids))
        assert list(dict.fromkeys(listener.ids)) == ids
    listener.close()


def test_a_station_that_dies_is_said_to_be_offline_by_the_broker(station: Station, broker: Broker) -> None:
    add(station, "mqtt", {"url": broker.url})
    listener = Listener(broker)
    worker = subprocess.Popen([sys.executable, "-c", CHILD, str(station.place.root), broker.url])
    try:
        station.until(lambda: listener.states == ["online"], 60)  # with nothing to send
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    station.until(lambda: listener.states == ["online", "offline"])
    listener.close()


def test_a_broker_that_wants_a_password_is_said(station: Station, tmp_path: Path, broker: Broker) -> None:
    broker.stop()
    settings = tmp_path / "mosquitto.conf"
    settings.write_text(settings.read_text().replace("allow_anonymous true", "allow_anonymous false"))
    broker.start()
    config = replace(station.config, allow=(broker.url,))
    sink = made("mqtt", "one", {"url": broker.url}, station.place, config)
    with pytest.raises(Undelivered, match="(?i)not authori[sz]ed"):
        list(sink.send([Message(1, "x", "cam1", DAY, "{}")]))
