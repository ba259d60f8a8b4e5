"""What stands between a browser and the station: host names, origins, and the headers of every answer."""

from __future__ import annotations

import ipaddress
import logging
from urllib.parse import urlsplit

from anyio import BrokenResourceError
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blemish.station.config import Config
from blemish.station.web.problems import answer

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "worker-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer browsers send forms from an origin of null
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
SAFE = ("GET", "HEAD", "OPTIONS")


class Guard:
    """Refuses foreign host names (a rebound DNS name leads a page of elsewhere here) and changes that pages of
    elsewhere ask for; adds the headers."""

    def __init__(self, app: ASGIApp, config: Config) -> None:
        self.app = app
        self.tls = config.web.certificate is not None
        self.hosts = {"localhost", "127.0.0.1", "::1", config.web.host.lower(), *map(str.lower, config.web.hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
                if self.tls:
                    headers["Strict-Transport-Security"] = "max-age=31536000"
            await send(message)

        asked = Headers(scope=scope)
        why = self._refused(scope, asked)
        if why is None:
            try:
                await self.app(scope, receive, with_headers)
            except* BrokenResourceError:  # FastAPI sends an event, or a sign of life, to who has just gone
                logging.getLogger(__name__).info("%s: who listened has gone", scope["path"])
        else:
            await answer(*why)(scope, receive, with_headers)

    def _refused(self, scope: Scope, asked: Headers) -> tuple[int, str, str] | None:
        host = asked.get("host", "")
        name = _part(f"//{host}", "hostname") if "/" not in host and "@" not in host else ""
        if name not in self.hosts and not _is_own_address(scope, name):
            return 421, "this station is not known by that name", "add it to `hosts` below [web] in station.toml"
        if scope["method"] in SAFE:
            return None
        site, origin = asked.get("sec-fetch-site"), asked.get("origin")
        foreign = site is not None and site not in ("same-origin", "none")
        own = (
            site == "same-origin" and origin == "null"
        )  # the browser says the one, and a page could only hide the other
        if origin is not None and _part(origin, "netloc").lower() != host.lower() and not own:
            foreign = True
        if "cookie" in asked and "authorization" not in asked and site is None and origin is None:
            foreign = True
        return (403, "this was asked for by a page of elsewhere", "use the station's own pages") if foreign else None


def _part(url: str, name: str) -> str:
    """Of an address; empty where it is none."""
    try:
        return getattr(urlsplit(url), name) or ""
    except ValueError:
        return ""


def _is_own_address(scope: Scope, name: str) -> bool:
    """An address, not a name, and the one that the request came in by: no DNS is in between."""
    server = scope.get("server")
    try:
        return server is not None and ipaddress.ip_address(name) == ipaddress.ip_address(server[0])
    except ValueError:
        return False
