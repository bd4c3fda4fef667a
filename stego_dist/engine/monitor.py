"""The numbers of a run: a line of metrics.jsonl every few steps, the same to trackers and view, and collapse by name.

What is logged is a mean over ranks, so every rank knows it; the main process writes it.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections import deque

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from stego_dist import console
from stego_dist.config import Config, LossConfig
from stego_dist.engine.collapse import WINDOW, codes_agree, one_cluster
from stego_dist.engine.live import View
from stego_dist.engine.state import RunState
from stego_dist.engine.trackers import track
from stego_dist.rundir import RunDir, append_metrics, writing_to

REMEDY = "The last checkpoint is intact: resume afterwards."


class Monitor:
    """Counts time, writes numbers, warns once of each kind of collapse. `asked`: the loss before its calibration."""

    def __init__(
        self, config: Config, run: RunDir, accelerator: Accelerator, state: RunState, view: View, asked: LossConfig
    ) -> None:
        self.config, self.run, self.accelerator, self.state, self.view = config, run, accelerator, state, view
        self.asked = asked
        self.lines: deque[dict[str, float]] = deque(maxlen=WINDOW)
        self.begun = time.perf_counter()
        self.validating = 0.0
        self.seconds = 0.0
        """Spent on steps, waiting for batches included."""
        self._clock = [0.0, 0.0, 0.0]  # seconds waited, seconds worked, steps since the last line

    def step(self, log: dict[str, Tensor], waited: float, worked: float) -> None:
        """Count a finished step; every train.log_every steps, and after the last one, write its numbers."""
        self._clock = [a + b for a, b in zip(self._clock, (waited, worked, 1.0))]
        self.seconds += waited + worked
        t, step = self.config.train, self.state.step
        if step % t.log_every == 0 or step == t.steps:
            wait, work, steps = self._clock
            self._clock = [0.0, 0.0, 0.0]
            values = self.accelerator.reduce(torch.stack(list(log.values())), "mean")
            line = dict(zip(log, values.tolist())) | {
                "steps_per_s": steps / (wait + work),
                "images_per_s": steps * t.batch_size / (wait + work),
                "data_wait_share": wait / (wait + work),
                "memory_gb": memory_gb(self.accelerator.device),
                "skipped": self.state.skipped,
            }
            self.lines.append(line)
            collapse = codes_agree(self.lines, self.config.loss, self.asked) if len(self.lines) == WINDOW else None
            self._write(line | {"collapse": 1.0} if collapse else line)
            self.view.show(line)
            self.warn_once("codes", collapse)
        self.view.advance()

    def validated(self, numbers: dict[str, float]) -> None:
        """Write the numbers of a validation: a line of its own, with its share of the time."""
        self.validating += numbers["val/seconds"]
        share = self.validating / (time.perf_counter() - self.begun)
        collapse = self._cluster(numbers["val/largest_cluster"], "learned")
        line = numbers | {"validation_share": share}
        self._write(line | {"collapse": 1.0} if collapse else line)
        names = {"mIoU": "miou_learned", "accuracy": "accuracy_learned", "linear mIoU": "miou_linear"}
        shown = [f"{what} {numbers[f'val/{key}']:.1%}" for what, key in names.items() if f"val/{key}" in numbers]
        if "val/label_free" in numbers:
            shown.append(f"label-free score {numbers['val/label_free']:.3f}")
        shown.append(f"{share:.1%} of the time")
        self.view.note("validation", f"step {self.state.step}: " + ", ".join(shown))
        self.warn_once("cluster", collapse)

    def finished(self, largest_cluster: float) -> None:
        """Name a collapse at the end, however few lines there are. `largest_cluster`: of the k-means clusters."""
        self.warn_once("codes", codes_agree(self.lines, self.config.loss, self.asked))
        self.warn_once("cluster", self._cluster(largest_cluster, "k-means"))

    def warn_once(self, kind: str, message: str | None) -> None:
        """Warn, and keep the warning for status.json, unless this kind was warned of before."""
        if message and kind not in self.state.warnings:
            self.state.warnings[kind] = f"step {self.state.step}: {message}"
            console.warn(self.state.warnings[kind])

    def _cluster(self, share: float, which: str) -> str | None:
        return one_cluster(share, which, self.lines[-1] if self.lines else {}, self.config.loss, self.asked)

    def _write(self, line: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            with writing_to(self.run.root, REMEDY):
                append_metrics(self.run.metrics, {"step": self.state.step, **line})
                track(self.accelerator, line, self.state.step)


def memory_gb(device: torch.device) -> float:
    """Most memory this process has held so far: on the GPU if it has one, else resident; 10⁹ bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def not_finite(accelerator: Accelerator, step: int, log: dict[str, Tensor]) -> str:
    """The sentence about a step whose loss is not finite, with the processes where it is so; all of them call it."""
    where = ""
    if accelerator.num_processes > 1:
        losses = gather_object([float(log["loss/total"])])  # gradients are everybody's by now
        where = "".join(f" on process {rank}," for rank, loss in enumerate(losses) if not math.isfinite(loss))
        where += f" here on process {accelerator.process_index}"
    names = [key for key in log if key.startswith("loss/") or key == "gradient_norm"]
    values = ", ".join(f"{key.removeprefix('loss/')} {float(log[key]):g}" for key in names)
    return f"the loss of step {step} is not finite{where} ({values})"
