"""How processes come together: the interface that gloo listens on, who is missing when not all come, and which errors
mean that another process is lost."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from datetime import timedelta

from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

from stego_dist.errors import UserError
from stego_dist.network import address_towards, addresses, interface_of, is_loopback

LOST = ("closed by peer", "reset by peer", "broken pipe", "connection refused", "timed out", "timeout")


def is_lost_contact(error: BaseException) -> bool:
    """Whether an error of torch.distributed says that another process is gone or does not answer."""
    if isinstance(error, DistError):
        return True
    return type(error) is RuntimeError and any(word in str(error).lower() for word in LOST)


def choose_interface() -> None:
    """Let gloo listen where rank 0's machine is reached, when there are several machines and nobody has chosen.

    By itself it takes the address of the machine's own name, which on many is 127.0.1.1; the others then wait for
    a minute and a half before they fail. NCCL looks for an interface by itself.
    """
    environ = os.environ
    if environ.get("WORLD_SIZE", "1") == environ.get("LOCAL_WORLD_SIZE", environ.get("WORLD_SIZE", "1")):
        return
    if "GLOO_SOCKET_IFNAME" not in environ and "MASTER_ADDR" in environ:
        address = address_towards(environ["MASTER_ADDR"])
        if not is_loopback(address) and (name := interface_of(address)):
            environ["GLOO_SOCKET_IFNAME"] = name


@contextlib.contextmanager
def meeting(timeout_minutes: float) -> Iterator[None]:
    """Where the process group is made: turns its timeout into a UserError that names who did not come.

    Each process leaves its host in the launcher's store; where rank 0 makes the store itself, nothing is left there.
    """
    environ = os.environ
    rank, ranks = int(environ.get("RANK", "0")), int(environ.get("WORLD_SIZE", "1"))
    store = None
    if ranks > 1 and environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        with contextlib.suppress(DistError):
            store = TCPStore(
                environ["MASTER_ADDR"], int(environ["MASTER_PORT"]), is_master=False, wait_for_workers=False,
                timeout=timedelta(minutes=timeout_minutes),
            )  # fmt: skip
            store.set(f"stego_dist/host/{rank}", socket.gethostname())
    try:
        yield
    except RuntimeError as error:
        if "Unable to find address" in str(error):
            name, known = environ.get("GLOO_SOCKET_IFNAME"), ", ".join(addresses())
            raise UserError(
                f"GLOO_SOCKET_IFNAME={name}: {socket.gethostname()} has no such interface; it has {known}"
            ) from None
        if ranks == 1 or not is_lost_contact(error):
            raise
        missing = _missing(store, ranks)
        absent = f"; not there: process {', '.join(map(str, missing))}" if missing else ""
        raise UserError(
            f"{ranks} processes were launched, but did not all come together at {environ.get('MASTER_ADDR')}:"
            f"{environ.get('MASTER_PORT')} within {timeout_minutes:g} minutes (train.timeout_minutes){absent}. This is "
            f"process {rank} on {socket.gethostname()}, interface {environ.get('GLOO_SOCKET_IFNAME', 'not chosen')}. "
            f"`stego-dist doctor` looks at this machine's network. ({str(error).strip().splitlines()[0][:200]})"
        ) from error


def _missing(store: TCPStore | None, ranks: int) -> list[int]:
    """Processes that left no line in the store; none where it can't be asked."""
    if store is None:
        return []
    with contextlib.suppress(RuntimeError):
        return [rank for rank in range(ranks) if not store.check([f"stego_dist/host/{rank}"])]
    return []
