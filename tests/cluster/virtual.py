"""A Slurm cluster of virtual hosts (vcluster), and jobs on it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import REPO

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "iproute2")
PATIENCE_S = 900.0
"""Any wait for a job; machines of CI may be busy."""


def missing() -> str:
    """Why there can be no cluster here; "" when there can. Installs Debian's packages where that is allowed."""
    if os.geteuid():
        return "virtual hosts need root"
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *PACKAGES]
    if not all(map(shutil.which, ("slurmctld", "slurmd", "srun", "munged", "ip"))):
        if not shutil.which("apt-get"):
            return f"needs the programs of {', '.join(PACKAGES)}"
        if _run(*install) and (_run("apt-get", "update", "-q") or _run(*install)):
            return f"`{' '.join(install)}` fails"
    probe = f"probe{os.getpid()}"
    if _run("unshare", "--mount", "--uts", "--pid", "--fork", "ip", "netns", "add", probe):
        return "making network namespaces is not allowed here"
    _run("ip", "netns", "del", probe)
    return ""


def _run(*command: str) -> int:
    """Its exit code; 124 after two minutes."""
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        return subprocess.run(command, env=quiet, capture_output=True, check=False, timeout=120).returncode
    except subprocess.TimeoutExpired:
        return 124


class Cluster:
    """Hosts n1 … nN and login; `folder` is seen on all of them, and holds HOME."""

    def __init__(self, folder: Path, hosts: int, *, loopback: tuple[str, ...] = ()) -> None:
        """`loopback`: hosts whose own name means 127.0.1.1 there."""
        self.folder, self.hosts = folder, [f"n{i + 1}" for i in range(hosts)]
        self.home = folder / "home"
        self.home.mkdir()
        shared = [str(folder), *(p for p in (str(REPO), *_python()) if p.startswith("/tmp/"))]
        clean = {k: v for k, v in os.environ.items() if not re.match("RAY|STEGO|SLURM|OMP|ACCELERATE|HF_", k)}
        self.environment = {
            **clean, "HOME": str(self.home), "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "PYTHONPATH": str(REPO),
            "PATH": f"{_python()[0]}/bin:{clean['PATH']}", "VCLUSTER_DIR": f"/tmp/vcluster-{os.getpid()}",
            "VCLUSTER_PREFIX": f"vc{os.getpid()}", "VCLUSTER_SHARE": " ".join(shared),
            "VCLUSTER_LOOPBACK": " ".join(loopback),
        }  # fmt: skip
        self("up", str(hosts))

    def __call__(self, *words: str, check: bool = True) -> str:
        """Run vcluster; what it printed."""
        command = [str(REPO / "tests" / "cluster" / "vcluster"), *words]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, cwd=REPO)
        if check and done.returncode:
            raise AssertionError(f"vcluster {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def on(self, host: str, *command: str, check: bool = True, **variables: object) -> str:
        """Run a command on a host with more environment variables; what it printed."""
        return self("on", host, "env", *(f"{k}={v}" for k, v in variables.items()), *command, check=check)

    def submit(self, script: str, *words: str | Path, flags: str = "", **variables: object) -> Job:
        """Submit a batch script of launchers/slurm; `flags` are sbatch's."""
        log = self.folder / "%x-%j.out"
        command = ["sbatch", "--parsable", f"--output={log}", *flags.split(), f"launchers/slurm/{script}.sbatch"]
        return self.job(self.on("login", *command, *map(str, words), **variables).strip())

    def job(self, number: str) -> Job:
        """A job that was submitted."""
        return Job(self, number)

    def processes(self, host: str) -> list[str]:
        """Command lines of all that runs on a host, but for what belongs to the host itself."""
        own = ("bash -c", "slurmd ", "sleep 1", "ps ", "slurmctld", "slurmscriptd", "env ")
        lines = self.on(host, "ps", "axo", "args", "--no-headers").splitlines()
        return [line for line in lines if line and not line.startswith(own)]

    def down(self) -> None:
        """End all hosts with everything on them."""
        self("down")


class Job:
    """A batch job."""

    def __init__(self, cluster: Cluster, number: str) -> None:
        self.cluster, self.number = cluster, number

    def field(self, name: str) -> str:
        """What `scontrol show job` has for a name."""
        shown = self.cluster.on("login", "scontrol", "-o", "show", "job", self.number)
        found = re.search(rf"\b{name}=(\S*)", shown)
        assert found, shown
        return found[1]

    @property
    def state(self) -> str:
        return self.field("JobState")

    @property
    def log(self) -> str:
        """What it printed so far."""
        path = Path(self.field("StdOut").replace("%j", self.number))
        return path.read_text() if path.exists() else ""

    def until(self, happened: Callable[[], object], what: str) -> None:
        """Wait; fails with the job's output."""
        deadline = time.monotonic() + PATIENCE_S
        while not happened():
            assert time.monotonic() < deadline, f"no {what} in {PATIENCE_S:.0f} s: {self.state}\n{self.log[-6000:]}"
            time.sleep(0.2)

    def end(self) -> str:
        """The state that it ends in."""
        going = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED", "PREEMPTED", "NODE_FAIL")
        self.until(lambda: self.state not in going, "end")
        return self.state

    def signal_ranks(self, signal: str, *hosts: str) -> None:
        """Signal the processes that train, on these hosts."""
        for host in hosts:
            self.cluster.on(host, "pkill", f"-{signal}", "-f", "--", "-u -m stego_dist train")


def _python() -> list[str]:
    """Folders of the interpreter: of the environment, and of what it was made from."""
    return [sys.prefix, sys.base_prefix]
