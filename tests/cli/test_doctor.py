"""`stego-dist doctor`: what it finds, and that what is wrong comes with a remedy and exit code 1."""

from __future__ import annotations

import json
import resource
import shutil
from collections import namedtuple

import pytest

from stego_dist import system
from stego_dist.engine import selftest
from stego_dist.errors import UserError
from stego_dist.jobs import health
from tests.launching import stego


def by_name(findings) -> dict[str, system.Finding]:
    return {finding.name: finding for finding in findings}


@pytest.mark.ranks
def test_a_healthy_machine():
    done = stego(1, "doctor", "--json")
    found = json.loads(done.stdout)
    assert found["ok"] is True
    findings = {finding["name"]: finding for finding in found["findings"]}
    two = findings["two processes"]
    assert two["state"] == "ok" and two["found"].startswith("2 processes on ")
    assert "all-reduce over" in two["found"] and two["found"].endswith("a training step")
    assert {
        "threads",
        "memory",
        "/dev/shm",
        "open files",
        "packages",
        "interfaces",
        "Slurm",
        "GPUs",
        "Ray",
    } <= findings.keys()
    assert "torch 2." in findings["packages"]["found"] and "lo 127.0.0.1" in findings["interfaces"]["found"]


@pytest.mark.ranks
def test_launched_processes_are_tested_as_they_are():
    printed = stego(2, "doctor").stdout
    assert "✓ all processes: 2 processes on " in printed and printed.count("nothing is wrong") == 1


def test_too_little_room_and_too_few_files(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**30, 2**30 - 1000, 1000))
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 65536))
    found = by_name(system.machine())
    assert found["/dev/shm"].state == "wrong" and "--shm-size" in found["/dev/shm"].remedy
    assert found["this folder"].state == "wrong" and "0.0 GiB free" in found["this folder"].found
    assert found["open files"].state == "note" and "ulimit -n 65536" in found["open files"].remedy


def test_a_name_that_nobody_else_can_use_and_an_interface_that_is_not_there(monkeypatch):
    monkeypatch.setattr(system.socket, "gethostbyname", lambda name: "127.0.1.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib7")
    found = by_name(system.network())
    assert found["own name"].state == "note" and "127.0.1.1" in found["own name"].found
    assert found["GLOO_SOCKET_IFNAME"].state == "wrong" and "ib7, which is none" in found["GLOO_SOCKET_IFNAME"].found


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(system, "PACKAGES", ("torch", "no-such-package"))
    found = by_name(system.packages())
    assert found["packages missing"].found == "no-such-package" and found["packages missing"].state == "wrong"


def test_an_allocation(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "8")
    monkeypatch.setenv("PATH", "")
    found = by_name(system.slurm())
    assert found["Slurm"].found == "job 7 on n[1-2], 8 CPU(s) and 0 GPU(s) on this host"
    assert found["scontrol"].state == "note"


def test_a_driver_whose_gpus_torch_does_not_see(monkeypatch):
    monkeypatch.setattr(selftest, "gpu_driver", lambda: "NVIDIA H200, 143771 MiB, 550.54")
    monkeypatch.setattr(selftest.torch.cuda, "is_available", lambda: False)
    gpus = by_name(selftest.gpus())["GPUs"]
    assert gpus.state == "wrong" and "H200" in gpus.found and "CUDA_VISIBLE_DEVICES" in gpus.remedy


@pytest.mark.ranks
def test_processes_that_can_not_work_together(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib7")
    found = selftest.group()
    assert found.state == "wrong" and "of two ended with" in found.found


def test_a_ray_cluster_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("stale")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")

    def nobody():
        raise UserError("RAY_ADDRESS=127.0.0.1:9: no Ray cluster answers there")

    monkeypatch.setattr(health, "ray_cluster", nobody)
    found = by_name(health.ray_health())
    assert found["Ray"].state == "wrong" and "no Ray cluster answers" in found["Ray"].found
    assert found["Ray token"].state == "note" and "auth_token" in found["Ray token"].found
