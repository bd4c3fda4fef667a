"""The process group and the device, and what stops a run: one place that knows Accelerate's start-up."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from stego_dist.engine.meeting import choose_interface, meeting
from stego_dist.errors import UserError

MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
LAUNCHED = ("TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION")
"""Environment of processes that torchrun or `accelerate launch` started."""


def make_accelerator(precision: Literal["fp32", "bf16", "fp16"] = "fp32", timeout_minutes: float = 10.0) -> Accelerator:
    """A fresh Accelerator for the processes that the launcher started (one without a launcher).

    Raises UserError when fewer processes came together than were launched, within the timeout, naming those that did
    not come where that can be known; or when fp16 is asked for on a CPU.
    """
    cuda = torch.cuda.is_available()
    if precision == "fp16" and not cuda:
        raise UserError("train.precision=fp16 needs a GPU (its gradients are scaled there); use bf16 or fp32")
    AcceleratorState._reset_state(True)
    choose_interface()
    with meeting(timeout_minutes):
        accelerator = Accelerator(
            cpu=not cuda,
            mixed_precision=MIXED[precision],
            kwargs_handlers=[
                DistributedDataParallelKwargs(broadcast_buffers=False),
                InitProcessGroupKwargs(timeout=timedelta(minutes=timeout_minutes)),
            ],
        )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise UserError(
            f"{launched} processes were launched, but only {accelerator.num_processes} joined; on CPU launch with "
            "`accelerate launch --config_file launchers/accelerate/cpu.yaml`, see launchers/README.md"
        )
    return accelerator


class MainProcessError(UserError):
    """Work that the main process alone does has failed there; it says and records why."""


class Stopped(Exception):
    """All processes agreed to stop between two pieces of work."""


class StopFlag:
    """Raised by SIGTERM, SIGUSR1, SIGUSR2, or when the launcher is gone; the run then saves and exits with 75."""

    def __init__(self) -> None:
        self.signalled = False
        self._launcher = os.getppid() if any(name in os.environ for name in LAUNCHED) else None

    @property
    def raised(self) -> bool:
        """Whether this process is to stop. A process whose parent died gets another: nobody would end it."""
        return self.signalled or self._launcher not in (None, os.getppid())

    def set(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        self.signalled = True

    def check(self, accelerator: Accelerator) -> None:
        """Raise Stopped on every process when any of them is to stop. All of them must call it."""
        if agreed(accelerator, self.raised)[0]:
            raise Stopped


def agreed(accelerator: Accelerator, *flags: bool) -> tuple[bool, ...]:
    """For each flag whether it is set on any process; one collective, the same answer everywhere."""
    if accelerator.num_processes == 1:
        return flags
    summed = accelerator.reduce(torch.tensor(flags, dtype=torch.float32, device=accelerator.device), "sum")
    return tuple(value > 0 for value in summed.tolist())


def on_main_process(accelerator: Accelerator, work: Callable[[], None]) -> None:
    """Do `work` on the main process while the others wait; when it raises UserError, all of them do."""
    failure: UserError | None = None
    if accelerator.is_main_process:
        try:
            work()
        except UserError as error:
            failure = error
    if agreed(accelerator, failure is not None)[0]:
        raise failure or MainProcessError("the main process failed, see its message")


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Install the handlers, on the main thread only (Python allows no other); restore them at the end."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.signal(number, flag.set) for number in STOPPING}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
