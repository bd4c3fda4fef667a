"""Trials of several processes: the command, what it reports, and that nobody is left behind when its starter dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stego_dist.errors import UserError
from stego_dist.jobs.sweep.launch import launch_command, train_launched
from stego_dist.jobs.sweep.plan import Folder, begin, trial_config
from stego_dist.jobs.sweep.trial import perform
from stego_dist.rundir import read_json
from tests.jobs.sweeping import plan_at
from tests.launching import environment
from tests.tiny import build_shards, embed_and_search

SLEEPER = """
import os, sys, time
from stego_dist.jobs.sweep.launch import _started
from pathlib import Path
folder = Path(sys.argv[1])
say = "import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(100)"
with _started([sys.executable, "-c", say], dict(os.environ), folder / "log"):
    time.sleep(100)
"""


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


def until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_what_was_launched_ends_with_the_one_who_launched_it(tmp_path):
    starter = subprocess.Popen([sys.executable, "-c", SLEEPER, str(tmp_path)], env=environment(), cwd=tmp_path)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    pid = int((tmp_path / "pid").read_text())
    assert not gone(pid)
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    until(lambda: gone(pid))


def test_the_command_is_what_a_user_types():
    command = launch_command(4, "train", "c.yaml", "--resume")
    assert command[1:4] == ["-m", "accelerate.commands.accelerate_cli", "launch"]
    assert command[command.index("--num_processes") + 1] == "4"
    assert command[-5:] == ["-m", "stego_dist", "train", "c.yaml", "--resume"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("launched")
    build_shards(root)
    embed_and_search(plan_at(root).base)
    return root


def begun(root: Path, name: str, processes: int) -> Folder:
    plan, folder = plan_at(root, processes=processes, trials=1), Folder(root / name)
    begin(plan, folder, resume=False, overwrite=False)
    values = plan.space.random(0, 0)
    folder.write_trial(0, values, trial_config(plan, folder, 0, values))
    return folder


@pytest.mark.ranks
def test_two_processes_reach_what_one_does_and_are_stopped_as_one_is(prepared):
    alone, launched, told = begun(prepared, "alone", 1), begun(prepared, "launched", 2), []

    class Enough(Exception):
        pass

    def stop(step: int, numbers: dict[str, float]) -> None:
        assert step == 2 and numbers["objective"] > 0
        raise Enough

    with pytest.raises(Enough):
        perform(launched.root, 0, stop)
    status = read_json(launched.run(0).status, "", "")
    assert status["state"] in ("saved", "done")  # told to end, by the launcher's SIGTERM
    one = perform(alone.root, 0, lambda step, numbers: told.append((step, numbers["objective"])))
    two = perform(launched.root, 0, lambda step, numbers: None)
    assert [step for step, _ in told] == [2, 4] and one.state == two.state == "done"
    assert [step for step, _ in two.curve] == [2, 4, 6]
    assert two.objective == pytest.approx(one.objective, rel=1e-3) and two.numbers.keys() == one.numbers.keys()


@pytest.mark.ranks
def test_a_launched_failure_comes_back_with_its_reason(prepared):
    folder = begun(prepared, "failing", 2)
    text = folder.config(0).read_text().replace(f"dir: {prepared}/features", f"dir: {prepared}/nowhere")
    folder.config(0).write_text(text)
    with pytest.raises(UserError, match=r"training on 2 processes: .*nowhere"):
        train_launched(folder.config(0), folder.run(0), 2, lambda step, numbers: None, 2)
