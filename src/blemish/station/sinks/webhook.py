"""Verdicts by HTTP POST, signed. A receiver that has the key can tell who has sent what, and when.

Blemish-Id: the message, the same however often it is sent
Blemish-Signature: t=<seconds since 1970>,v1=<HMAC-SHA256 of "<t>.<body>" with the secret, in hex>
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import field
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from blemish.errors import ConfigError
from blemish.station.sinks.base import HINT, Message, Refused, Sink, Undelivered

AGAIN = (408, 425, 429)  # answers of the 400s that ask for another try
BLOCK = 1 << 16  # bytes of an answer that are read, so that the connection can be used again


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options:
    """`ca`: a file of certificates to trust instead of the computer's, in the station's folder or its roots."""

    url: str
    secret: Annotated[str, Field(min_length=16)] = field(metadata={"secret": True})
    timeout: Annotated[float, Field(gt=0, le=120)] = 10.0  # seconds without an answer
    ca: str | None = None


class Webhook(Sink[Options]):
    """2xx is delivered; a redirect is not followed: it would lead where nobody has allowed to send."""

    OPTIONS = Options
    _open: http.client.HTTPConnection | None = None

    def check(self) -> None:
        self._parts = urlsplit(self.around.url(self.options.url, ("http", "https")))
        try:
            ca = None if self.options.ca is None else str(self.around.file(self.options.ca))
            self._tls = ssl.create_default_context(cafile=ca) if self._parts.scheme == "https" else None
            self._host, self._port = self._parts.hostname or "", self._parts.port
        except (OSError, ValueError) as error:
            raise ConfigError(f"sink {self.around.name}: {self.options.ca or 'url'}: {error}", hint=HINT) from None
        path = self._parts.path or "/"
        self._path = f"{path}?{self._parts.query}" if self._parts.query else path

    def send(self, messages: Sequence[Message]) -> Iterator[int]:
        for message in messages:
            status = self._post(message)
            if not 200 <= status < 300:
                refused = 300 <= status < 500 and status not in AGAIN
                raise (Refused if refused else Undelivered)(f"{self.options.url} answers {status}")
            yield message.id

    def _post(self, message: Message) -> int:
        """The status of the answer."""
        body, now = message.body.encode(), str(int(time.time()))
        signed = hmac.new(self.options.secret.encode(), f"{now}.".encode() + body, hashlib.sha256).hexdigest()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "blemish-station",
            "Blemish-Id": message.key,
            "Blemish-Signature": f"t={now},v1={signed}",
        }
        used = self._open is not None
        try:
            return self._exchange(body, headers)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
            self.close()
            if not used:
                raise Undelivered(f"{self.options.url}: {error}") from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise Undelivered(f"{self.options.url}: {error or type(error).__name__}") from error
        return self._post(message)  # the receiver had closed a connection that was idle

    def _exchange(self, body: bytes, headers: dict[str, str]) -> int:
        if self._open is None:
            if self._tls is not None:
                self._open = http.client.HTTPSConnection(
                    self._host, self._port, timeout=self.options.timeout, context=self._tls
                )
            else:
                self._open = http.client.HTTPConnection(self._host, self._port, timeout=self.options.timeout)
        self._open.request("POST", self._path, body, headers)
        with self._open.getresponse() as answer:
            whole = len(answer.read(BLOCK)) < BLOCK
        if not whole or answer.will_close:
            self.close()
        return answer.status

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
        self._open = None


SINK = Webhook
