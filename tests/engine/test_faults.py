"""A run can't be lost: killed, stopped, cut off or out of disk, it ends, says so, and continues to the same bits."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from stego_dist.rundir import read_metrics
from tests.engine.faults import command
from tests.launching import command as command_line
from tests.launching import environment
from tests.ranks import on_ranks
from tests.tiny import config_at

pytestmark = pytest.mark.ranks
SETTINGS = ["train.validate_every=3", "train.steps=6", "train.checkpoint_every=2", "train.select=label_free"]


class Run:
    """A run directory and the commands that go into it."""

    def __init__(self, prepared: Path, root: Path, ranks: int, features: str, *settings: str) -> None:
        config_at(prepared)
        self.root, self.ranks, self.log = root, ranks, root.parent / f"{root.name}.log"
        self.arguments = ["train", str(prepared / "config.yaml"), f"run_dir={root}", f"train.features={features}"]
        self.arguments += [*SETTINGS, *settings]

    def __call__(self, fault: str | None = None, *more: str) -> list[int | None]:
        return on_ranks(self.ranks, command, fault, *self.arguments, *more, "--resume", log=self.log)

    @property
    def status(self) -> dict:
        return json.loads((self.root / "status.json").read_text())

    def said(self, rank: int = 0) -> str:
        return (self.log / f"{rank}.log").read_text()

    def checkpoints(self) -> list[str]:
        return sorted(p.name for p in (self.root / "checkpoints").iterdir())


def assert_same_end(run: Run, straight: Run) -> None:
    """The same bits in the model, the same numbers in the same lines."""
    a, b = (load_file(r.root / "model.safetensors") for r in (run, straight))
    assert all(torch.equal(a[key], b[key]) for key in b) and a.keys() == b.keys()
    timed = ("per_s", "share", "seconds", "memory")

    def lines(r: Run) -> list[dict]:
        found = read_metrics(r.root / "metrics.jsonl")
        return [{k: v for k, v in line.items() if not any(word in k for word in timed)} for line in found]

    assert lines(run) == lines(straight)
    assert [r.status["selected"] for r in (run, straight)] == [straight.status["selected"]] * 2
    assert not list(run.root.rglob("*.tmp"))


@pytest.fixture(scope="module")
def straight(prepared, tmp_path_factory):
    """Undisturbed runs, made once each."""
    made: dict[tuple[int, str], Run] = {}

    def get(ranks: int, features: str) -> Run:
        if (ranks, features) not in made:
            run = Run(prepared, tmp_path_factory.mktemp("straight") / "run", ranks, features)
            assert set(run()) == {0}
            made[ranks, features] = run
        return made[ranks, features]

    return get


@pytest.mark.parametrize("features", ["bank", "online"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_while_a_checkpoint_is_written(prepared, tmp_path, straight, ranks, features):
    run = Run(prepared, tmp_path / "run", ranks, features)
    start = time.monotonic()
    codes = run("die_in_checkpoint:4")
    assert codes[0] == -signal.SIGKILL and codes[1:] == [1] * (ranks - 1) and time.monotonic() - start < 60
    left = run.checkpoints()
    assert left[0].startswith(".step-00000004.") and left[0].endswith(".tmp") and "step-00000004" not in left
    assert set(run()) == {0}
    assert_same_end(run, straight(ranks, features))


def test_one_process_is_killed(prepared, tmp_path, straight):
    run = Run(prepared, tmp_path / "run", 2, "bank")
    assert run("die_on_rank_1:5") == [1, -signal.SIGKILL]
    assert (run.status["state"], run.status["exit_code"]) == ("failed", 1)
    for text in (run.status["error"], run.said()):
        assert "process 0 of 2 lost contact with another one" in text and "--resume" in text
        assert "The newest checkpoint is" in text and "step-00000004" in text
        assert f"process 1 on {socket.gethostname()} has not answered for" in text
    assert run.status["lost_contact"] is True
    assert "Traceback" not in run.said()
    assert set(run()) == {0}
    assert_same_end(run, straight(2, "bank"))


def test_a_process_that_does_not_answer_is_given_up(prepared, tmp_path):
    run = Run(prepared, tmp_path / "run", 2, "bank", "train.timeout_minutes=0.2")
    assert run("hang_on_rank_1:3") == [1, 1]
    assert "lost contact" in run.status["error"] and "train.timeout_minutes" in run.status["error"]
    assert f"process 1 on {socket.gethostname()} lives, but is still in step 3" in run.status["error"]


def test_a_process_that_stands_still_is_given_up_before_the_collective(prepared, tmp_path):
    """As over NCCL, where a collective that waits ends the process without a word: the heartbeat is earlier."""
    run = Run(prepared, tmp_path / "run", 2, "bank", "train.timeout_minutes=0.2")
    start = time.monotonic()
    assert run("freeze_rank_1:3")[0] == 1 and time.monotonic() - start < 60
    assert f"process 1 on {socket.gethostname()} has not answered for" in run.status["error"]
    assert (run.status["state"], run.status["lost_contact"], run.status["step"]) == ("failed", True, 3)
    assert "Timed out" not in run.said() and "Traceback" not in run.said()


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(("fault", "step"), [("terminate_in_validation:3", 3), ("terminate_in_kmeans", 6)])
def test_a_signal_is_heard_outside_of_steps(prepared, tmp_path, straight, ranks, fault, step):
    run = Run(prepared, tmp_path / "run", ranks, "bank")
    start = time.monotonic()
    assert set(run(fault)) == {75} and time.monotonic() - start < 50
    assert (run.status["state"], run.status["step"], run.status["exit_code"]) == ("saved", step, 75)
    assert not (run.root / "model.safetensors").exists()
    assert set(run()) == {0}
    assert_same_end(run, straight(ranks, "bank"))


def assert_full_disk_is_survived(run: Run, straight: Run, fault: str, *, status: bool) -> None:
    assert set(run(fault)) == {1}
    assert ("Traceback" not in run.said() and "--resume" in run.said()) or "free space and resume" in run.said()
    assert "step-00000002" in run.checkpoints() and "step-00000004" not in run.checkpoints()
    if status:
        assert (run.status["state"], run.status["exit_code"]) == ("failed", 1)


def test_a_file_that_can_not_grow(prepared, tmp_path, straight):
    run = Run(prepared, tmp_path / "run", 2, "bank", "train.panels=0")
    assert_full_disk_is_survived(run, straight(2, "bank"), "small_files:4000", status=True)
    assert "could not write checkpoint" in run.said() and "free space and resume" in run.said()
    assert run.status["error"].startswith("UserError: could not write checkpoint")
    assert set(run()) == {0}
    assert_same_end(run, straight(2, "bank"))


def test_a_full_disk(prepared, tmp_path, straight):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        run = Run(prepared, disk / "run", 1, "bank", "train.panels=0")
        run.log = tmp_path / "log"
        assert_full_disk_is_survived(run, straight(1, "bank"), f"fill_disk:{disk}", status=False)
        assert "No space left on device" in run.said() or "disk or the quota is full" in run.said()
        (disk / "filler").unlink()
        assert set(run()) == {0}
        assert_same_end(run, straight(1, "bank"))
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_damaged_selected_checkpoint(prepared, tmp_path, straight):
    run = Run(prepared, tmp_path / "run", 1, "bank", "train.keep_checkpoints=1", "train.validate_every=1")
    assert run("terminate_in_kmeans") == [75]
    best = run.status["selected"]["step"]
    if best == 6:
        pytest.skip("the last step is the best one")
    assert run.checkpoints() == [f"step-{best:08d}", "step-00000006"]
    file = run.root / "checkpoints" / f"step-{best:08d}" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    assert run() == [0]
    assert "is damaged" in run.said() and "the last weights become the model" in run.said()
    assert run.status["selected"]["by"] == "last"


def test_stopped_then_a_rank_lost_then_the_launcher_lost(prepared, tmp_path, straight):
    """The life of a run under `accelerate launch`: every time all processes end, and nothing is lost."""
    settings = ["train.steps=300", "train.checkpoint_every=20", "train.log_every=50", "train.validate_every=150"]
    undisturbed = Run(prepared, tmp_path / "undisturbed", 2, "bank", *settings)
    assert set(undisturbed()) == {0}
    run = Run(prepared, tmp_path / "run", 2, "bank", *settings)
    arguments = [*run.arguments, "--resume"]
    log = (tmp_path / "launched.log").open("w")

    def launch_and(harm) -> None:
        before = step()
        process = subprocess.Popen(command_line(2, *arguments), env=environment(), stderr=log, stdout=log)
        try:
            deadline = time.monotonic() + 120
            while step() < before + 20:
                assert process.poll() is None and time.monotonic() < deadline, Path(log.name).read_text()
                time.sleep(0.01)
            ranks = psutil.Process(process.pid).children()
            assert len(ranks) == 2
            harm(process, ranks)
            start = time.monotonic()
            process.wait(60)
            assert psutil.wait_procs(ranks, timeout=60)[1] == [] and time.monotonic() - start < 60
        finally:
            process.kill()
            process.wait()

    def step() -> int:
        found = sorted((run.root / "checkpoints").glob("step-*/state.json"))
        return int(found[-1].parent.name[5:]) if found else 0

    launch_and(lambda launcher, ranks: launcher.terminate())
    assert run.status["state"] == "saved" and run.status["exit_code"] == 75 and run.status["step"] == step() < 300

    launch_and(lambda launcher, ranks: ranks[1].kill())
    assert run.status["state"] == "failed" and "process 0 of 2 lost contact" in run.status["error"]

    launch_and(lambda launcher, ranks: launcher.kill())
    assert run.status["state"] == "saved" and run.status["step"] == step() < 300
    assert "stopped by a signal or by the launcher's end" in Path(log.name).read_text()

    def kill_all(launcher, ranks) -> None:
        for process in (launcher, *ranks):
            os.kill(process.pid, signal.SIGKILL)

    launch_and(kill_all)
    assert run.status["state"] == "running" and step() < 300
    assert set(run()) == {0}
    assert_same_end(run, undisturbed)
