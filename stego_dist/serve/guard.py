"""What stands before every request, so that no other page in the visitor's browser can use the server.

1. the Host header has to be an address, or a name of this machine: a name that somebody else's DNS points here is
   refused (DNS rebinding);
2. what changes something has to come from the page itself: Origin and Sec-Fetch-Site say so where they are sent, and a
   header that pages elsewhere may not set is asked for (cross-site request forgery);
3. answers carry a policy that lets the page load nothing but its own files, and no other page embed them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-requested-with"
VALUE = "stego-dist"
POLICY = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
_NETLOC = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]+))(?::\d{1,5})?", re.ASCII)


class Guard:
    """An ASGI application before another."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        """hosts: names of this machine, in lower case, besides "localhost" and any address."""
        self.app, self.hosts = app, {"localhost", *hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the module."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(POLICY)
            await send(message)

        headers = Headers(scope=scope)
        answer: ASGIApp = self.app
        if not self._ours(headers.getlist("host")):
            answer = _refusal(421, "This address is not the server's own; open the one that it printed.")
        elif scope["method"] not in ("GET", "HEAD") and not _from_the_page(headers):
            answer = _refusal(403, "Only the page itself may do this.")
        await answer(scope, receive, guarded)

    def _ours(self, given: list[str]) -> bool:
        name = _host(given[0]) if len(given) == 1 else None
        return name is not None and (name in self.hosts or _is_address(name))


def _refusal(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, status)


def _from_the_page(headers: Headers) -> bool:
    origin, host = headers.get("origin", "").lower(), headers["host"].lower()
    same = origin in ("", f"http://{host}", f"https://{host}")  # https: through somebody's tunnel
    return same and headers.get("sec-fetch-site", "same-origin") == "same-origin" and headers.get(HEADER) == VALUE


def _host(netloc: str) -> str | None:
    """The host of "host:port", in lower case, an IPv6 address without its brackets; None where it is neither."""
    found = _NETLOC.fullmatch(netloc)
    return (found[1] or found[2]).lower() if found else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
