"""The server: a run's page at an address, until it is asked to stop."""

from __future__ import annotations

import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import uvicorn

from stego_dist import console
from stego_dist.errors import UserError
from stego_dist.inference.model import Model, OpenedRun, Readout, Scale
from stego_dist.rundir import RunDir
from stego_dist.serve.app import Limits, Page
from stego_dist.serve.naming import NamesEditor

CONNECTIONS = 100
GRACE_SECONDS = 3
READOUTS = {"kmeans": "k-means clusters", "learned": "learned clusters", "linear": "linear probe"}


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    socket: socket.socket
    host: str
    """As it was asked for."""

    @property
    def port(self) -> int:
        """The port, also where any free one was asked for."""
        return int(self.socket.getsockname()[1])

    @property
    def loopback(self) -> bool:
        """Whether nobody but this machine gets here."""
        return ipaddress.ip_address(self.socket.getsockname()[0]).is_loopback

    @property
    def url(self) -> str:
        """For a browser."""
        address = ipaddress.ip_address(self.socket.getsockname()[0])
        host = socket.gethostname() if address.is_unspecified else self.host
        return f"http://[{host}]:{self.port}/" if ":" in host else f"http://{host}:{self.port}/"

    @property
    def names(self) -> set[str]:
        """Names by which a browser may call it, besides addresses."""
        own = set() if self.loopback else {socket.gethostname().lower(), socket.getfqdn().lower()}
        return own | {self.host.lower()}


def bind(host: str, port: int) -> Address:
    """Listen; port 0 takes a free one. Raises UserError: no such host, a port that is taken."""
    if not 0 <= port < 1 << 16:
        raise UserError(f"cannot listen at {host}, port {port}: a port is a number from 0 to {(1 << 16) - 1}")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen()
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise UserError(
            f"cannot listen at {host}, port {port}: {error.strerror or error}. --port 0 takes a free port"
        ) from None
    return Address(listener, host)


def make_page(
    run: RunDir,
    *,
    readout: Readout | None = None,
    scale: Scale | None = None,
    window: int | None = None,
    flip: bool | None = None,
    overrides: Sequence[str] = (),
    limits: Limits | None = None,
) -> Page:
    """Load a run for its page. Raises UserError as `Model.load` does."""
    opened = OpenedRun.open(run.root, overrides)
    model = Model.load(run.root, readout=readout, scale=scale, window=window, flip=flip, overrides=overrides)
    chosen = model.scorer.readout
    facts = {
        "run": run.root.resolve().name,
        "backbone": opened.config.backbone.name,
        "readout": READOUTS[chosen],
        "seen": "their own size" if model.scale == "native" else f"{model.scale} pixels",
        "device": str(model.device),
    }
    return Page(model, NamesEditor(opened, chosen), facts, limits or Limits())


class _Server(uvicorn.Server):
    """Tells those who wait for a prediction that it stops."""

    def __init__(self, config: uvicorn.Config, page: Page) -> None:
        super().__init__(config)
        self._page = page

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End connections."""
        self._page.worker.stop()
        await super().shutdown(sockets)


def serve(page: Page, address: Address, ready: Callable[[uvicorn.Server], Any] = lambda server: None) -> bool:
    """Answer until SIGINT, SIGTERM, or `should_exit` of the server that `ready` is given.

    Connections and a prediction in work get GRACE_SECONDS each to end; False where the prediction did not: its thread
    would disturb the end of the interpreter. In a thread that is not the main one no signal is looked at.
    """
    config = uvicorn.Config(
        page.app(address.names), http="h11", loop="asyncio", ws="none", lifespan="off", log_config=None,
        access_log=False, server_header=False, proxy_headers=False, limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )  # fmt: skip
    server = _Server(config, page)
    ready(server)
    main = threading.current_thread() is threading.main_thread()
    # uvicorn stops at these signals, then raises them again for the handlers that were there before it
    before = {number: signal.signal(number, _done) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}
    try:
        server.run(sockets=[address.socket])
        return page.worker.ended(GRACE_SECONDS)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _done(number: int, frame: object) -> None:
    del number, frame


def announce(run: RunDir, address: Address, locked: str | None) -> None:
    """Say where the page is; its URL alone goes to stdout."""
    if not address.loopback:
        console.warn(
            f"THE PAGE IS OPEN TO THE NETWORK at {address.host}: whoever reaches this machine can send images and "
            f"rename clusters; there is no password. Without --host it is open to this machine alone"
        )
    console.say(f"{run.root}: drop images on the page, names are kept in {run.names}; Ctrl-C ends")
    if locked:
        console.warn(locked)
    print(address.url, flush=True)
