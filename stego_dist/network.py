"""This machine in the network: its address towards another one, the interface of an address, ports.

Scripts ask by `python -m stego_dist.network QUESTION`, which imports nothing heavy:

    address PEER              this machine's address towards PEER
    meet PEER FIRST           that address and the first free port from FIRST on, of sixteen;
        [--interface NAME]    the address of this interface instead
    wait HOST PORT SECONDS    until something listens there; exit code 1 when nothing does
"""

from __future__ import annotations

import argparse
import socket
import sys
import time

import psutil

from stego_dist.errors import UserError

PORTS = 16
"""Ports that a job may try: launchers give every job as many of its own."""
NOWHERE = "192.0.2.1"
"""An address of no machine (RFC 5737), which leads along the default route."""


def address_towards(peer: str) -> str:
    """The IPv4 address that this machine has towards `peer`, a name or address; nothing is sent.

    A name that means this machine itself by a loopback address (127.0.1.1 in Debian's /etc/hosts) gives the address
    of the default route, or of the only other interface. Raises UserError: an unknown name, no way there.
    """
    for there in (peer, NOWHERE):
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((there, 9))
                address = str(probe.getsockname()[0])
        except OSError as error:
            if there == peer:
                raise UserError(f"{peer} can't be reached from {socket.gethostname()}: {error}") from None
            continue
        if not is_loopback(address) or is_loopback(peer):
            return address
    others = [address for address in addresses().values() if not is_loopback(address)]
    if len(others) == 1:
        return others[0]
    raise UserError(
        f"on {socket.gethostname()} the name {peer} means the machine itself, by a loopback address, and which of "
        f"{', '.join(others) or 'no other address'} others reach it by is not known; give an IP address in its place"
    )


def is_loopback(address: str) -> bool:
    """Whether an IPv4 address is one that no other machine can reach."""
    return address.startswith("127.")


def addresses() -> dict[str, str]:
    """Interfaces that are up and have an IPv4 address, with it; the loopback included."""
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    found = (
        (name, a.address) for name, all_ in psutil.net_if_addrs().items() for a in all_ if a.family == socket.AF_INET
    )
    return {name: address for name, address in reversed(list(found)) if name in up}


def interface_of(address: str) -> str | None:
    """Name of the interface that has this IPv4 address."""
    return next((name for name, its in addresses().items() if its == address), None)


def address_of(interface: str) -> str:
    """IPv4 address of an interface. Raises UserError naming those there are."""
    known = addresses()
    if interface not in known:
        there_are = ", ".join(f"{name} ({address})" for name, address in known.items())
        raise UserError(f"{socket.gethostname()} has no interface {interface} with an IPv4 address; it has {there_are}")
    return known[interface]


def free_port(first: int) -> int:
    """The first TCP port from `first` on that nothing listens on. Raises UserError when PORTS of them are taken."""
    for port in range(first, first + PORTS):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise UserError(f"none of the ports {first} to {first + PORTS - 1} of {socket.gethostname()} is free")


def wait_for(host: str, port: int, seconds: float) -> bool:
    """Whether something listens at a port, or begins to within so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=max(0.1, min(2.0, seconds))).close()
            return True
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)


def main() -> int:
    """Answer a question of a script's."""
    parser = argparse.ArgumentParser(prog="python -m stego_dist.network", description=__doc__)
    questions = parser.add_subparsers(dest="question", required=True)
    questions.add_parser("address").add_argument("peer")
    meet = questions.add_parser("meet")
    meet.add_argument("peer")
    meet.add_argument("first", type=int)
    meet.add_argument("--interface")
    wait = questions.add_parser("wait")
    wait.add_argument("host")
    wait.add_argument("port", type=int)
    wait.add_argument("seconds", type=float)
    args = parser.parse_args()
    try:
        if args.question == "wait":
            if wait_for(args.host, args.port, args.seconds):
                return 0
            raise UserError(f"nothing listens at {args.host}:{args.port} after {args.seconds:g} s")
        if args.question == "meet":
            address = address_of(args.interface) if args.interface else address_towards(args.peer)
            print(address, free_port(args.first))
        else:
            print(address_towards(args.peer))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
