"""Addresses, interfaces and ports of this machine."""

from __future__ import annotations

import socket
import subprocess
import sys

import psutil
import pytest

from stego_dist import network
from stego_dist.errors import UserError
from stego_dist.network import address_of, address_towards, addresses, free_port, interface_of, is_loopback, wait_for


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_the_loopback_leads_to_itself():
    assert address_towards("127.0.0.1") == "127.0.0.1"
    assert interface_of("127.0.0.1") == "lo" and address_of("lo") == "127.0.0.1"
    assert interface_of("203.0.113.7") is None


def test_a_name_that_means_this_machine_gives_an_address_that_others_reach(monkeypatch):
    monkeypatch.setattr(network, "NOWHERE", "127.0.0.1")  # as without a default route
    monkeypatch.setattr(network, "addresses", lambda: {"lo": "127.0.0.1", "eth7": "203.0.113.7"})
    assert address_towards("localhost") == "203.0.113.7"
    monkeypatch.setattr(network, "addresses", lambda: {"lo": "127.0.0.1", "a": "203.0.113.7", "b": "198.51.100.7"})
    with pytest.raises(UserError, match=r"which of 203\.0\.113\.7, 198\.51\.100\.7 others reach"):
        address_towards("localhost")


def test_interfaces_are_those_that_are_up():
    known = addresses()
    assert "lo" in known and known.keys() <= psutil.net_if_addrs().keys()
    with pytest.raises(UserError, match=r"has no interface ib7 .* it has .*lo \(127\.0\.0\.1\)"):
        address_of("ib7")
    with pytest.raises(UserError, match=r"nowhere\.invalid can't be reached from"):
        address_towards("nowhere.invalid")


def test_a_taken_port_is_passed_over(listener, monkeypatch):
    assert listener < free_port(listener) < listener + network.PORTS
    monkeypatch.setattr(network, "PORTS", 1)
    with pytest.raises(UserError, match=f"none of the ports {listener} to {listener} "):
        free_port(listener)


def test_waiting_for_a_listener(listener):
    assert wait_for("127.0.0.1", listener, 0)
    assert not wait_for("127.0.0.1", free_port(listener), 0)


def test_scripts_ask_by_the_command_line(listener):
    def ask(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "stego_dist.network", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    address, port = ask("meet", "127.0.0.1", str(listener), "--interface", "").stdout.split()
    assert is_loopback(address) and int(port) > listener
    assert ask("address", "127.0.0.1").stdout == "127.0.0.1\n"
    assert ask("wait", "127.0.0.1", str(listener), "5").returncode == 0
    nobody = ask("wait", "127.0.0.1", port, "0")
    assert nobody.returncode == 1 and "error: nothing listens at 127.0.0.1:" in nobody.stderr
    assert ask("meet", "127.0.0.1", port, "--interface", "ib7").returncode == 1
