"""Start the command line as a user would: one process, or several through `accelerate launch`."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from tests.conftest import REPO

LAUNCH = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]


def command(processes: int, *arguments: str) -> list[str]:
    """The command line for so many processes."""
    if processes == 1:
        return [sys.executable, "-m", "stego_dist", *arguments]
    launcher = [
        "--config_file",
        str(REPO / "launchers" / "accelerate" / "cpu.yaml"),
        "--num_processes",
        str(processes),
    ]
    return [*LAUNCH, *launcher, "-m", "stego_dist", *arguments]


def environment() -> dict[str, str]:
    """Plain, single-threaded, without colours."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200", "PYTHONPATH": str(REPO)}


def stego(processes: int, *arguments: str, check: bool = True, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run to the end; on an unexpected failure show what it printed."""
    done = subprocess.run(
        command(processes, *arguments),
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
        **kwargs,
    )
    if check and done.returncode:
        raise AssertionError(f"exit code {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
    return done
