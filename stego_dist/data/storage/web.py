"""Requests and answers, for web servers and object stores alike.

1. A status other than 2xx never becomes data: 404 is a FileNotFoundError, 401, 403 and the like a UserError, both at
   once; 429 and 5xx are worth another try (TemporaryError), as are lost connections.
2. A range is taken from where the answer says it begins: servers that ignore ranges and send the whole file, and those
   that send the right part under status 200, give the right bytes.
3. A body that ends early is a TemporaryError.
"""

from __future__ import annotations

import contextlib
import os
import re
import urllib.request
from collections.abc import Callable
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError

import certifi
import urllib3
from urllib3.exceptions import HTTPError, LocationValueError, MaxRetryError, ProtocolError, SSLError
from urllib3.response import BaseHTTPResponse

from stego_dist import console
from stego_dist.data.storage.retry import TemporaryError
from stego_dist.errors import UserError

T = TypeVar("T")
SKIP = 2**18
"""Bytes read at a time of what was not asked for."""
TEMPORARY = {408, 425, 429, 500, 502, 503, 504}
"""Answers that are worth another try; S3 says 400 RequestTimeout besides, when it waited for an upload."""
_warned: set[str] = set()


class StatusError(Exception):
    """An answer other than 2xx."""

    def __init__(self, response: BaseHTTPResponse, preloaded: bool) -> None:
        body = b""
        with contextlib.suppress(HTTPError):
            body = (response.data if preloaded else response.read(4096)) or b""
        response.close()
        code = re.search(rb"<Code>(\w+)</Code>", body)
        super().__init__(f"answered {response.status} {code[1].decode() if code else response.reason or ''}".rstrip())
        self.status = response.status
        self.passes = self.status in TEMPORARY or (code is not None and code[1] == b"RequestTimeout")
        """Whether another try may help."""
        asked = response.headers.get("Retry-After", "")
        self.wait = float(asked) if asked.isdigit() else None
        self.region = response.headers.get("x-amz-bucket-region")


class PastTheEnd(Exception):
    """A range that begins behind the end of the file (status 416)."""


class _Checked:
    """Mixed into urllib3's pools: an answer other than 2xx is raised before anybody takes it for data."""

    def urlopen(self, method: str, url: str, redirect: bool = True, **kwargs: Any) -> BaseHTTPResponse:
        response = cast(BaseHTTPResponse, super().urlopen(method, url, redirect, **kwargs))  # type: ignore[misc]
        if not 200 <= response.status < 300:
            raise StatusError(response, kwargs.get("preload_content", True))
        return response


class _Pool(_Checked, urllib3.PoolManager):  # type: ignore[misc]
    """Direct connections."""


class _ProxyPool(_Checked, urllib3.ProxyManager):  # type: ignore[misc]
    """Connections by way of a proxy."""


def connections(url: str, timeout: float, redirects: int) -> urllib3.PoolManager:
    """Connections that are kept open, with no retries of their own. Proxy and CA file come from the environment."""
    retries = urllib3.Retry(
        total=None, connect=0, read=0, status=0, other=0, redirect=redirects, raise_on_redirect=False
    )
    authorities = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or certifi.where()
    options: dict[str, Any] = {"retries": retries, "timeout": urllib3.Timeout(timeout), "maxsize": 16}
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.netloc):
        return _ProxyPool(proxy, ca_certs=authorities, **options)
    return _Pool(ca_certs=authorities, **options)


def asking(where: str, ask: Callable[[], T], advice: str = "") -> T:
    """`ask`, its errors told apart; `advice` is for those who may not read.

    Raises FileNotFoundError, PastTheEnd, UserError (another try would not help), TemporaryError.
    """
    try:
        return ask()
    except StatusError as error:
        if error.status in (404, 410):
            raise FileNotFoundError(2, f"No such file, the server {error}", where) from None
        if error.status == 416:
            raise PastTheEnd from None
        if error.passes:
            raise TemporaryError(f"the server {error}", error.wait) from None
        if error.region:
            advice = f"; the bucket is in region {error.region}: set AWS_REGION to it"
        raise UserError(f"{where}: the server {error}{advice}") from None
    except LocationValueError as error:
        raise UserError(f"{where}: not a URL: {error}") from None
    except HTTPError as error:
        reason = error.reason if isinstance(error, MaxRetryError) and error.reason else error
        if isinstance(reason, SSLError):
            raise UserError(
                f"{where}: no safe connection: {reason}; AWS_CA_BUNDLE or SSL_CERT_FILE can name a file of authorities"
            ) from None
        text = str(reason.args[0]) if isinstance(reason, ProtocolError) else str(reason).rpartition(": ")[2]
        raise TemporaryError(text or type(reason).__name__) from None
    except (ParseError, UnicodeDecodeError):
        raise TemporaryError("the server answered something that can't be read") from None
    except ValueError as error:  # a bucket's name that can't be one
        raise UserError(f"{where}: {error}") from None


class Body:
    """The bytes of a file from `offset` to `end` (None: all), out of one answer, whatever part of it was sent.

    `get` sends the request and gives the answer unread. Raises what `asking` raises, but for PastTheEnd, and
    TemporaryError for a body that is cut.
    """

    def __init__(
        self, where: str, get: Callable[[], BaseHTTPResponse], offset: int, end: int | None, advice: str = ""
    ) -> None:
        self._where = where
        self._left: int | None = None
        self._response: BaseHTTPResponse | None = None
        try:
            self._response = asking(where, get, advice)
        except PastTheEnd:
            self._left = 0
            return
        headers = self._response.headers
        if headers.get("Content-Encoding", "identity") not in ("identity", "", "aws-chunked"):
            self.close()
            raise UserError(
                f"{where}: the server compresses it ({headers['Content-Encoding']}); shards must come as is"
            )
        begins, stops = self._sent_part()
        if stops is not None:
            self._left = max(0, (stops if end is None else min(stops, end)) - offset)
        elif end is not None:
            self._left = end - offset
        if begins > offset:
            self.close()
            raise TemporaryError(f"the server sent the bytes from {begins} on in place of those from {offset} on")
        self._skip(offset - begins)

    def _sent_part(self) -> tuple[int, int | None]:
        """Where the answer begins in the file, and where it stops (None: not known)."""
        assert self._response is not None
        headers = self._response.headers
        if found := re.match(r"bytes (\d+)-(\d+)", headers.get("Content-Range", "")):
            return int(found[1]), int(found[2]) + 1
        length = headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None

    def _skip(self, size: int) -> None:
        if size > SKIP and (server := urlsplit(self._where).netloc) not in _warned:
            _warned.add(server)
            console.warn(f"{self._where}: the server ignores ranges, so whole files are sent for every sample")
        while size:
            data = self._take(min(size, SKIP))
            if not data:
                self._left, size = 0, 0
            size -= len(data)

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; b"" at the end."""
        if self._left == 0:
            return b""
        data = self._take(size if self._left is None else min(size, self._left))
        if self._left is not None:
            if not data:
                raise TemporaryError(f"the answer ended {self._left} bytes early")
            self._left -= len(data)
        return data

    def _take(self, size: int) -> bytes:
        response = self._response
        assert response is not None
        return asking(self._where, lambda: response.read(size, decode_content=False))

    def close(self) -> None:
        """Keep the connection when all was read, else close it."""
        if self._response is not None:
            self._response.close()

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
