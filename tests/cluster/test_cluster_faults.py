"""Training under Slurm when something happens to it: it comes back by itself, to the bits of an undisturbed run.

All is begun at once on hosts of its own, for most of the time is waiting.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cluster.virtual import Cluster
from tests.engine.faults import command
from tests.ranks import on_ranks
from tests.tiny import build_shards, config_at, embed_and_search

pytestmark = [pytest.mark.cluster, pytest.mark.ranks]
STEPS = ["train.steps=150", "train.checkpoint_every=10", "train.log_every=50"]


class Training:
    """A run by train.sbatch on two hosts, and what was seen of it."""

    def __init__(
        self, cluster: Cluster, root: Path, name: str, hosts: str, *words: str, flags: str = "", restarts: int = 9
    ) -> None:
        self.cluster, self.run, self.hosts, self.seconds = cluster, root / name, hosts.split(","), 0.0
        arguments = (root / "config.yaml", *STEPS, f"run_dir={self.run}", *words)
        flags += f" --nodes={len(self.hosts)} --nodelist={hosts} --cpus-per-task=1"
        self.job = cluster.submit("train", *arguments, flags=flags, STEGO_MAX_RESTARTS=restarts)
        self.job.until(lambda: self.step() >= 10, "checkpoint")
        self.job.signal_ranks("STOP", *self.hosts)  # so that it does not end before something happens

    def step(self) -> int:
        """The newest checkpoint."""
        found = sorted((self.run / "checkpoints").glob("step-*/state.json"))
        return int(found[-1].parent.name[5:]) if found else 0

    @property
    def status(self) -> dict:
        return json.loads((self.run / "status.json").read_text())

    def signalled(self) -> None:
        """Slurm's signal comes, and the job goes back into the queue."""
        self.job.until(lambda: "a signal: stopping" in self.job.log, "signal")
        self.job.signal_ranks("CONT", *self.hosts)
        self.job.until(lambda: self.job.field("Restarts") != "0", "requeue")
        assert f"step {self.step()} is saved" in self.job.log and 10 <= self.step() < 150


def preempted(cluster: Cluster, root: Path) -> Training:
    """A job of a higher priority takes the hosts, for a moment."""
    training = Training(cluster, root, "preempted", "n1,n2")
    flags = "--partition=high --exclusive --nodes=2 --nodelist=n1,n2 --wrap=true --output=/dev/null"
    urgent = cluster.job(cluster.on("login", "sbatch", "--parsable", *flags.split()).strip())
    training.signalled()
    assert urgent.end() == "COMPLETED"
    return training


def crashed(cluster: Cluster, root: Path) -> Training:
    """The second host dies, and comes back when the job has noticed."""
    training = Training(cluster, root, "crashed", "n3,n4")
    cluster("crash", "n4")
    training.job.signal_ranks("CONT", "n3")
    training.job.until(lambda: training.job.field("Restarts") != "0", "restart")
    cluster("boot", "n4")
    return training


def out_of_time(cluster: Cluster, root: Path) -> Training:
    """Its time limit comes nearer than three minutes, when train.sbatch is warned; Slurm looks twice a minute."""
    training = Training(cluster, root, "out_of_time", "n5,n6", flags="--time=30")
    hours, minutes, _ = map(int, training.job.field("RunTime").split(":"))
    soon = f"TimeLimit={hours * 60 + minutes + 3}"
    cluster.on("login", "scontrol", "update", f"JobId={training.job.number}", soon)
    training.signalled()
    cluster.on("login", "scontrol", "update", f"JobId={training.job.number}", "TimeLimit=30")
    return training


def cut_off(cluster: Cluster, root: Path) -> Training:
    """The network of the second host is gone: the job gives up, for it may be started only once."""
    endless = ("train.steps=100000", "train.timeout_minutes=0.4")
    training = Training(cluster, root, "cut_off", "n7,n8", *endless, restarts=0)
    training.job.signal_ranks("CONT", *training.hosts)
    training.job.until(lambda: training.step() >= 20, "step after it stood still")
    cluster("cut", "n8")
    start = time.monotonic()
    training.job.until(lambda: training.status["state"] == "failed", "failure")
    training.seconds = time.monotonic() - start
    training.job.until(lambda: "process 1 on n8" in training.status["error"], "main process's word")
    training.job.until(lambda: training.job.state != "RUNNING", "end of the job")
    cluster("heal", "n8")
    return training


@pytest.fixture(scope="module")
def root(cluster) -> Path:
    """Shards, bank and table."""
    made = cluster.folder / "faults"
    made.mkdir()
    build_shards(made)
    embed_and_search(config_at(made))
    return made


@pytest.fixture(scope="module")
def scenarios(cluster, root):
    """Each of the functions above under way."""
    with ThreadPoolExecutor(4) as pool:
        yield {f.__name__: pool.submit(f, cluster, root) for f in (preempted, crashed, out_of_time, cut_off)}


@pytest.fixture(scope="module")
def undisturbed(root, scenarios) -> dict[str, torch.Tensor]:
    """The weights of the same run by two processes here."""
    arguments = ["train", str(root / "config.yaml"), *STEPS, f"run_dir={root / 'undisturbed'}"]
    assert on_ranks(2, command, None, *arguments, seconds=300) == [0, 0]
    return load_file(root / "undisturbed" / "model.safetensors")


@pytest.mark.parametrize("name", ["preempted", "crashed", "out_of_time"])
def test_it_comes_back_to_the_same_weights(scenarios, undisturbed, name):
    training = scenarios[name].result()
    assert training.job.end() == "COMPLETED", training.job.log[-6000:]
    assert int(training.job.field("Restarts")) >= 1 and training.status["state"] == "done"
    found = load_file(training.run / "model.safetensors")
    assert found.keys() == undisturbed.keys()
    assert all(torch.equal(found[key], undisturbed[key]) for key in found)
    assert training.job.log.count("stego-train: start 1 of job") == 1  # appended to, not written anew
    for host in training.hosts:
        assert training.cluster.processes(host) == []


def test_a_host_that_is_cut_off_is_named_within_the_timeout(scenarios):
    training = scenarios["cut_off"].result()
    assert training.seconds < 24 + 15  # train.timeout_minutes, and what it takes to look on a busy machine
    assert "process 1 on n8 has not answered for" in training.status["error"]
    assert training.job.end() == "FAILED" and "submit it anew to go on" in training.job.log
    assert training.job.field("Restarts") == "0"


@pytest.mark.long
def test_what_is_cancelled_does_not_come_back(cluster, root, scenarios):
    scenarios["cut_off"].result()
    training = Training(cluster, root, "cancelled", "n7", "train.steps=100000")
    training.job.signal_ranks("CONT", *training.hosts)
    cluster.on("login", "scancel", training.job.number)
    assert training.job.end() == "CANCELLED"
    assert training.status["state"] in ("saved", "running") and training.job.field("Restarts") == "0"
    for host in training.hosts:
        assert cluster.processes(host) == []
