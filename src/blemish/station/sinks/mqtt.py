"""Verdicts to an MQTT broker, QoS 1: delivered once the broker has acknowledged.

    blemish/<site>/<line>/<source>/result    a message for each verdict
    blemish/<site>/<line>/state              online, offline; retained, and the broker says offline for a dead station

The queue is the station's outbox: a connection that breaks is thrown away with all that waits in it.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import field
from typing import Annotated, Any
from urllib.parse import urlsplit

from paho.mqtt.client import Client, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from blemish.errors import ConfigError
from blemish.station.sinks.base import HINT, Message, Sink, Undelivered

TICK = 0.2  # seconds between two looks whether the connection still stands
PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """`mqtts://` is TLS; `ca`: certificates to trust instead of the computer's, in the station's folder or a root."""

    url: str
    user: str | None = None
    password: str = field(default="", metadata={"secret": True})
    ca: str | None = None
    prefix: str = "blemish"
    keepalive: Annotated[int, Field(ge=5, le=3600)] = 30  # seconds after which a silent connection is dead
    timeout: Annotated[float, Field(gt=0, le=120)] = 10.0  # seconds without an acknowledgement


class Mqtt(Sink[Options]):
    """One connection."""

    OPTIONS = Options
    _client: Client | None = None
    _refused: str = ""

    def check(self) -> None:
        self._parts = urlsplit(self.around.url(self.options.url, tuple(PORTS)))
        try:
            self._port = self._parts.port or PORTS[self._parts.scheme]
            ca = None if self.options.ca is None else str(self.around.file(self.options.ca))
            self._tls = ssl.create_default_context(cafile=ca) if self._parts.scheme == "mqtts" else None
        except (OSError, ValueError) as error:
            raise ConfigError(f"sink {self.around.name}: {self.options.ca or 'url'}: {error}", hint=HINT) from None
        here = (self.around.config.site, self.around.config.line)
        self._base = "/".join([self.options.prefix, *map(level, here)])

    def send(self, messages: Sequence[Message]) -> Iterator[int]:
        client = self._connected()
        told = [
            (message.id, client.publish(f"{self._base}/{level(message.source)}/result", message.body, qos=1))
            for message in messages
        ]
        for key, info in told:
            self._acknowledged(client, info)
            yield key

    def idle(self) -> None:
        self._connected()

    def _connected(self) -> Client:
        if self._client is not None and self._client.is_connected():
            return self._client
        self._drop()
        name = f"blemish-{self._base}-{self.around.name}"
        client = Client(CallbackAPIVersion.VERSION2, client_id=name, reconnect_on_failure=False)
        client.max_queued_messages_set(0)
        client.connect_timeout = self.options.timeout
        client.will_set(f"{self._base}/state", "offline", qos=1, retain=True)
        if self.options.user is not None:
            client.username_pw_set(self.options.user, self.options.password)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        self._refused = ""
        client.on_connect = self._answered
        try:
            client.connect(self._parts.hostname or "", self._port, self.options.keepalive)
        except (OSError, ValueError) as error:
            raise Undelivered(f"{self.options.url}: {error or type(error).__name__}") from error
        client.loop_start()
        self._client = client
        until = time.monotonic() + self.options.timeout
        while not client.is_connected():
            if self._refused or time.monotonic() > until:
                self._drop()
                raise Undelivered(f"{self.options.url}: {self._refused or 'no answer'}")
            time.sleep(0.01)
        self._acknowledged(client, client.publish(f"{self._base}/state", "online", qos=1, retain=True))
        return client

    def _answered(self, client: Any, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._refused = str(reason) if reason.is_failure else ""

    def _acknowledged(self, client: Client, info: MQTTMessageInfo) -> None:
        """Wait until the broker has a message. Undelivered where it does not say so in time."""
        until = time.monotonic() + self.options.timeout
        try:
            while not info.is_published():
                if not client.is_connected() or time.monotonic() > until:
                    raise Undelivered(f"{self.options.url}: the broker has not acknowledged")
                info.wait_for_publish(TICK)
        except (Undelivered, RuntimeError, ValueError) as error:
            self._drop()
            if isinstance(error, Undelivered):
                raise
            raise Undelivered(f"{self.options.url}: {error}") from error

    def _drop(self) -> None:
        """Break the connection without a farewell, so that the broker says offline."""
        client, self._client = self._client, None
        if client is not None:
            link: Any = client.socket()
            if link is not None:
                with suppress(OSError):
                    link.shutdown(socket.SHUT_RDWR)
            client.loop_stop()

    def close(self) -> None:
        client = self._client
        if client is not None and client.is_connected():
            try:
                self._acknowledged(client, client.publish(f"{self._base}/state", "offline", qos=1, retain=True))
            except Undelivered:
                return  # the broker says it for us
            client.disconnect()
            client.loop_stop()
            self._client = None
        self._drop()


def level(text: str) -> str:
    """A name as one level of a topic."""
    return "".join("_" if char in "/+#\0" else char for char in text) or "_"


SINK = Mqtt
