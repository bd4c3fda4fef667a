"""How processes come together, and what is said when they don't."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from stego_dist.engine import meeting
from stego_dist.engine.setup import make_accelerator
from stego_dist.errors import UserError
from stego_dist.network import free_port
from tests.ranks import CONTEXT


@pytest.fixture
def several_machines(monkeypatch):
    """Two of two processes each; the way to rank 0's is eth7."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")  # so that it is put back
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    for name, value in (("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "2"), ("MASTER_ADDR", "first")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(meeting, "address_towards", {"first": "203.0.113.7"}.__getitem__)
    monkeypatch.setattr(meeting, "interface_of", {"203.0.113.7": "eth7"}.get)


def test_gloo_listens_where_rank_0_is_reached(several_machines, monkeypatch):
    meeting.choose_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    meeting.choose_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0"


def test_on_one_machine_nothing_is_chosen(several_machines, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    meeting.choose_interface()
    assert "GLOO_SOCKET_IFNAME" not in os.environ


def come_alone(port: int, said: Path) -> None:
    """Rank 1 of three, where only rank 0 has left its name."""
    os.environ |= {
        "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True", "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    try:
        make_accelerator("fp32", 0.05)
    except UserError as error:
        said.write_text(str(error))


@pytest.mark.ranks
def test_who_does_not_come_is_named(tmp_path):
    port = free_port(23000 + os.getpid() % 5000)
    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=10))
    store.set("stego_dist/host/0", "first")
    rank = CONTEXT.Process(target=come_alone, args=(port, tmp_path / "said"))
    rank.start()
    rank.join(60)
    text = (tmp_path / "said").read_text()
    assert f"3 processes were launched, but did not all come together at 127.0.0.1:{port} within 0.05 minutes" in text
    assert "not there: process 2" in text and f"process 1 on {socket.gethostname()}" in text
