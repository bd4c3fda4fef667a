"""The process group and the device, and what stops a run: one place that knows Accelerate's start-up."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from stego_dist.errors import UserError

TIMEOUT = timedelta(minutes=10)
MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def make_accelerator(precision: Literal["fp32", "bf16", "fp16"] = "fp32") -> Accelerator:
    """A fresh Accelerator for the processes that the launcher started (one without a launcher).

    Raises UserError when fewer processes came together than were launched, or fp16 is asked for on a CPU.
    """
    cuda = torch.cuda.is_available()
    if precision == "fp16" and not cuda:
        raise UserError("train.precision=fp16 needs a GPU (its gradients are scaled there); use bf16 or fp32")
    AcceleratorState._reset_state(True)
    accelerator = Accelerator(
        cpu=not cuda,
        mixed_precision=MIXED[precision],
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=TIMEOUT),
        ],
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise UserError(
            f"{launched} processes were launched, but only {accelerator.num_processes} joined; on CPU launch with "
            "`accelerate launch --config_file launchers/accelerate/cpu.yaml`, see launchers/README.md"
        )
    return accelerator


class StopFlag:
    """Set by SIGTERM or SIGUSR1; the training loop finishes its step, saves and exits with 75."""

    def __init__(self) -> None:
        self.raised = False

    def set(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        self.raised = True


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Install the handlers, on the main thread only (Python allows no other); restore them at the end."""
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before = {number: signal.signal(number, flag.set) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
