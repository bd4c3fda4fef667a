"""What this machine and the allocation around it offer, and what is known to go wrong with it: facts without torch.

Each function gives findings for `stego-dist doctor`; those about GPUs and process groups are in engine/selftest.py,
those about Ray in jobs/health.py.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import resource
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from stego_dist.network import addresses, interface_of, is_loopback

PACKAGES = ("torch", "torchvision", "timm", "accelerate", "webdataset", "ray", "faiss-gpu", "pydensecrf2", "numpy")
GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """A fact, whether it is well, and what to do where it is not."""

    name: str
    state: Literal["ok", "note", "wrong"]
    """`note` is worth knowing; `wrong` stops the work, or will."""
    found: str
    remedy: str = ""


def machine() -> Iterator[Finding]:
    """Processors, threads, memory, shared memory, disks, open files."""
    cpus, mine = os.cpu_count() or 1, len(os.sched_getaffinity(0))
    threads = os.environ.get("OMP_NUM_THREADS")
    found = f"{mine} of {cpus} CPU(s), OMP_NUM_THREADS {threads or 'not set'}"
    if threads is None and mine > 1:
        yield Finding(
            "threads", "note", found, "each process takes all CPUs; where several share them export OMP_NUM_THREADS=1"
        )
    else:
        yield Finding("threads", "ok", found)
    memory = psutil.virtual_memory()
    yield Finding("memory", "ok", f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB available")
    yield _space(
        "/dev/shm", Path("/dev/shm"), 0.5, "data loaders and Ray pass batches through it: docker --shm-size=8g"
    )
    yield _space("this folder", Path.cwd(), 2, "runs and features need room: free some, or work on another disk")
    yield _space(
        "temporary files", Path(os.environ.get("TMPDIR", "/tmp")), 1, "set TMPDIR to a folder on a larger disk"
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    remedy = f"ulimit -n {hard}" if hard > soft else "ask the administrator for more (nofile in limits.conf)"
    yield Finding("open files", *(("ok",) if soft >= 4096 else ("note",)), f"{soft} (at most {hard})",
                  "" if soft >= 4096 else f"Ray and data loaders open many: {remedy}")  # fmt: skip


def _space(name: str, folder: Path, gib: float, remedy: str) -> Finding:
    try:
        free = shutil.disk_usage(folder).free / GIB
    except OSError as error:
        return Finding(name, "wrong", f"{folder}: {error.strerror}", remedy)
    writable = os.access(folder, os.W_OK)
    found = f"{folder}: {free:.1f} GiB free" + ("" if writable else ", not writable")
    return Finding(name, "ok", found) if free >= gib and writable else Finding(name, "wrong", found, remedy)


def packages() -> Iterator[Finding]:
    """Versions of what the work rests on."""
    versions: dict[str, str] = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    yield Finding("packages", "ok", f"Python {platform.python_version()}, {found}")
    if missing := [name for name in PACKAGES if name not in versions]:
        yield Finding("packages missing", "wrong", ", ".join(missing), "install the project: make setup")
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("pydensecrf")
        yield Finding(
            "pydensecrf", "wrong", "installed beside pydensecrf2, which has the same module",
            "pip uninstall pydensecrf pydensecrf2; pip install pydensecrf2",
        )  # fmt: skip


def network() -> Iterator[Finding]:
    """Interfaces, what this machine's own name means, and what is set about them."""
    known = addresses()
    yield Finding("interfaces", "ok", ", ".join(f"{name} {address}" for name, address in known.items()))
    host = socket.gethostname()
    others = [name for name, address in known.items() if not is_loopback(address)]
    try:
        own = socket.gethostbyname(host)
    except OSError:
        own = ""
    if own and not is_loopback(own):
        yield Finding("own name", "ok", f"{host} is {own} ({interface_of(own) or 'no interface of this machine'})")
    else:
        yield Finding(
            "own name", "note", f"{host} is {own or 'not known'} to itself, an address that no other machine can reach",
            "for training on several machines give --main_process_ip an IP address; gloo's interface is then found",
        )  # fmt: skip
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        if (name := os.environ.get(variable)) and variable.startswith("GLOO") and name not in known:
            yield Finding(variable, "wrong", f"{name}, which is none of this machine's", f"one of {', '.join(others)}")
        elif name:
            yield Finding(variable, "ok", name)


def slurm() -> Iterator[Finding]:
    """The allocation that this runs in, or whether there is a Slurm at all."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        there = shutil.which("sbatch") is not None
        yield Finding("Slurm", "ok", "sbatch is here, this is outside of a job" if there else "not here")
        return
    environ = os.environ
    found = f"job {job} on {environ.get('SLURM_JOB_NODELIST', '?')}, {environ.get('SLURM_CPUS_ON_NODE', '?')} CPU(s)"
    yield Finding("Slurm", "ok", f"{found} and {environ.get('SLURM_GPUS_ON_NODE', 0)} GPU(s) on this host")
    if shutil.which("scontrol") is None:
        yield Finding(
            "scontrol", "note", "not found on this host",
            "the batch scripts ask it for hosts and put jobs back into the queue: add Slurm's programs to PATH",
        )  # fmt: skip


def may_have_gpu() -> bool:
    """Whether a GPU may be here, by the device files of its driver: where not, torch need not be loaded to ask it."""
    patterns = ("nvidia*", "nvhost*", "dxg", "kfd")  # NVIDIA's, those of its small boards, Windows', AMD's
    return platform.system() != "Linux" or any(True for name in patterns for _ in Path("/dev").glob(name))


def gpu_driver() -> str:
    """GPUs and driver as nvidia-smi has them, "" without it."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "; ".join(done.stdout.strip().splitlines()) if done.returncode == 0 else ""
