"""Training on several processes of one machine, by the command that a user types.

`python -m stego_dist.jobs.sweep.launch COMMAND …` runs a command that is told to end (SIGTERM) when the process that
started it is gone, so that a killed worker leaves nobody behind who writes into its run. Only Linux tells.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stego_dist.errors import UserError
from stego_dist.rundir import RunDir, read_json, read_metrics

FLAGS = "--multi_gpu --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"
"""`--multi_gpu` is what makes the launcher start several processes, on a CPU too."""
POLL_S = 0.2
PATIENCE_S = 60.0
"""How long a launcher that was told to end may take."""
PR_SET_PDEATHSIG = 1


def launch_command(processes: int, *arguments: str) -> list[str]:
    """`accelerate launch … -m stego_dist ARGUMENTS` for this machine."""
    launcher = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *FLAGS.split()]
    return [*launcher, "--num_processes", str(processes), "-m", "stego_dist", *arguments]


def train_launched(
    config: Path, run: RunDir, processes: int, report: Callable[[int, dict[str, float]], None], threads: int
) -> None:
    """Train the run of a configuration file on so many processes, from where it stands; `report` as of `run_trial`.

    What `report` raises ends the processes, which save the run, and comes through. Raises UserError with the reason
    when they fail.
    """
    command = launch_command(processes, "train", str(config), "--resume")
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, threads // processes)), "NO_COLOR": "1"}
    with _started(command, environment, run.root.parent / "launch.log") as launched:
        told = len(read_metrics(run.metrics))
        ended = False
        while not ended:
            ended = _wait(launched)
            lines = read_metrics(run.metrics)
            for line in lines[told:]:
                if any(key.startswith("val/") for key in line):
                    numbers = {key: value for key, value in line.items() if value is not None}
                    report(int(numbers.pop("step")), numbers)
            told = max(told, len(lines))
    if launched.returncode:
        status = read_json(run.status, "the run's status", "") if run.status.exists() else {}
        reason = (
            status.get("error") or f"it ended as {status.get('state', 'nothing')}, see {run.root.parent}/launch.log"
        )
        raise UserError(f"training on {processes} processes: {reason}")


@contextmanager
def _started(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command that ends with the context, and with this process."""
    tied = [sys.executable, "-m", "stego_dist.jobs.sweep.launch", *command]
    with log.open("ab") as out:
        started = subprocess.Popen(tied, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=dict(environment))
    try:
        yield started
    finally:
        if started.poll() is None:
            started.terminate()
            try:
                started.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


def _wait(launched: subprocess.Popen[Any]) -> bool:
    """Wait a little; whether it has ended."""
    time.sleep(POLL_S)
    return launched.poll() is not None


def main(command: list[str]) -> None:
    """Become the command, tied to the parent."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit(1)  # it died in between
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
