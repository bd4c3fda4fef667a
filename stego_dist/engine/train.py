"""`train(config)`: what `accelerate launch -m stego_dist train CONFIG` runs on every rank.

1. open shards, table and features, refusing what does not belong together;
2. resume from the newest whole checkpoint, or start from the seed;
3. step: batch → features → draws → loss → agreement on finiteness and stopping → optimiser;
4. at the end: k-means over training codes, then the finished model.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from stego_dist import console
from stego_dist.config import Config
from stego_dist.data.manifest import ShardSet
from stego_dist.data.samples import ShardSamples
from stego_dist.engine import checkpoint as ckpt
from stego_dist.engine.clusters import draw_codes, find_clusters
from stego_dist.engine.feed import Batch
from stego_dist.engine.forward import Forward
from stego_dist.engine.inputs import (
    features_fingerprint,
    loss_settings,
    make_backbone,
    make_segmenter,
    open_table,
    provenance,
    share_of_rank,
)
from stego_dist.engine.prefetch import prefetch
from stego_dist.engine.record import prepare_run_dir
from stego_dist.engine.setup import StopFlag, make_accelerator, stop_on_signals
from stego_dist.engine.step import TrainStep, parameter_groups
from stego_dist.engine.supply import features_of, open_bank, open_feed
from stego_dist.errors import UserError
from stego_dist.rundir import RunDir, append_metrics, drop_metrics_after, write_json

SAVED = 75
"""Exit code: saved, to be resumed."""


def train(config: Config, *, resume: bool = False, overwrite: bool = False) -> int:
    """Train a run; returns the exit code: 0 done, 75 stopped by a signal and saved.

    Raises UserError for anything the user can mend. The run directory's status.json says what became of it.
    """
    run = RunDir(Path(config.run_dir))
    accelerator = make_accelerator(config.train.precision)
    with stop_on_signals() as stop:
        trainer = None
        try:
            prepare_run_dir(run, config, accelerator, resume, overwrite)
            trainer = Trainer(config, run, accelerator, stop)
            return trainer.run_to_end()
        except BaseException as error:
            if accelerator.is_main_process and run.config.exists():
                step = trainer.step if trainer else 0
                interrupted = isinstance(error, KeyboardInterrupt)
                run.write_status(
                    "interrupted" if interrupted else "failed",
                    step=step,
                    exit_code=130 if interrupted else getattr(error, "exit_code", 1),
                    error=f"{type(error).__name__}: {error}",
                )
            raise
        finally:
            accelerator.end_training()


class Trainer:
    """Everything a rank holds while it trains."""

    def __init__(self, config: Config, run: RunDir, accelerator: Accelerator, stop: StopFlag) -> None:
        self.config, self.run, self.accelerator, self.stop = config, run, accelerator, stop
        self.device = accelerator.device
        self.slots, self.groups = share_of_rank(config, accelerator.process_index, accelerator.num_processes)
        shard_set = ShardSet.open(config.data.shards, config.data.storage)
        self.samples = ShardSamples(shard_set, config.data.train_split)
        if len(self.samples) < 2:
            raise UserError(
                f"split {config.data.train_split} of {shard_set.root} has {len(self.samples)} sample; training "
                "compares images and needs at least 2; build the shards with --crops five to get five from one image"
            )
        self.backbone = make_backbone(config).to(self.device)
        fingerprint = features_fingerprint(config, shard_set, self.backbone)
        self.table = open_table(config, fingerprint)
        self.bank = open_bank(config, fingerprint, self.device)
        self.feed = open_feed(config, self.samples, self.table, self.bank, self.slots)

        self.segmenter = make_segmenter(config, self.backbone.dim, shard_set)
        step = TrainStep(self.segmenter, loss_settings(config))
        groups = parameter_groups(self.segmenter, config.train.lr_head, config.train.lr_probes)
        model, self.optimiser = accelerator.prepare(step.to(self.device), torch.optim.Adam(groups))
        self.forward = Forward(config, model, self.backbone, online=self.bank is None)
        self.step, self.skipped = 0, 0
        self._clock = [0.0, 0.0, 0.0]  # seconds waited, seconds worked, steps since the last line
        self._restore()
        if accelerator.is_main_process:
            write_json(run.provenance, provenance(fingerprint))
        self._describe(shard_set)

    def _describe(self, shard_set: ShardSet) -> None:
        c, split = self.config, self.samples.split
        console.say(
            f"training {c.name}: {len(self.samples)} crops ({'labelled' if split.labelled else 'no labels'}) from "
            f"{shard_set.root}, {c.backbone.name}, features {c.train.features}, {c.train.steps} steps of "
            f"{c.train.batch_size} images in {c.groups} group(s), {self.accelerator.num_processes} process(es) on "
            f"{self.device.type}, {c.train.precision}"
        )

    def run_to_end(self) -> int:
        """Train from where the run stands; returns the exit code."""
        total = self.config.train.steps
        if self.accelerator.is_main_process:
            self.run.write_status("running", step=self.step, exit_code=None)
        with console.progress("train", total, "steps", self.step) as bar:
            for batch, waited in (
                _timed(prefetch(self.feed.batches(self.step), self.device)) if self.step < total else ()
            ):
                stopping = self._advance(batch, waited, bar)
                if stopping and self.step < total:
                    return self._stopped()
                if self.step >= total:
                    break
        self._finish()
        return 0

    def _advance(self, batch: Batch, waited: float, bar: console.Bar) -> bool:
        """One step. Returns whether a signal asks to stop, agreed among all ranks."""
        start = time.perf_counter()
        loss, log = self._forward(batch)
        flags = torch.tensor([float(not torch.isfinite(loss)), float(self.stop.raised)], device=self.device)
        bad, stopping = (bool(flag > 0) for flag in self._sum(flags).tolist())
        if not bad:
            self.accelerator.backward(loss)
            self.optimiser.step()
        self.optimiser.zero_grad()
        self.step += 1
        if bad:
            self._not_finite(log)
        self._log(log, waited, time.perf_counter() - start, bar)
        every = self.config.train.checkpoint_every
        if self.step % every == 0 or self.step == self.config.train.steps or stopping:
            self._save()
        return stopping

    def _forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        scale = self.accelerator.num_processes / self._sum(self.forward.labelled(batch)).clamp(min=1)
        return self.forward(batch, step=self.step, groups=self.groups, label_scale=scale)

    def _sum(self, value: Tensor) -> Tensor:
        """The sum over ranks."""
        summed: Tensor = self.accelerator.reduce(value, "sum")
        return summed

    def _not_finite(self, log: dict[str, Tensor]) -> None:
        self.skipped += 1
        values = ", ".join(f"{k.removeprefix('loss/')} {float(v):g}" for k, v in log.items() if k.startswith("loss/"))
        message = f"the loss of step {self.step} is not finite ({values})"
        if self.config.train.non_finite == "stop":
            raise UserError(
                f"{message}; the last checkpoint is intact; lower train.lr_head, use train.precision=fp32 or bf16, or "
                "leave such steps out with train.non_finite=skip"
            )
        console.warn(f"{message}; the step is left out ({self.skipped} so far)")

    def _log(self, log: dict[str, Tensor], waited: float, worked: float, bar: console.Bar) -> None:
        config = self.config
        self._clock = [a + b for a, b in zip(self._clock, (waited, worked, 1.0))]
        wait, work, steps = self._clock
        if self.step % config.train.log_every and self.step != config.train.steps:
            bar.advance()
            return
        self._clock = [0.0, 0.0, 0.0]
        values = self._sum(torch.stack(list(log.values()))) / self.accelerator.num_processes
        rates = {
            "steps_per_s": steps / (wait + work),
            "images_per_s": steps * config.train.batch_size / (wait + work),
            "data_wait_share": wait / (wait + work),
        }
        line = {"step": self.step, **dict(zip(log, values.tolist())), **rates, "skipped": self.skipped}
        if self.accelerator.is_main_process:
            append_metrics(self.run.metrics, line)
        shown: dict[str, Any] = {
            name: line[f"loss/{name}"] for name in ("correspondence", "cluster", "linear") if f"loss/{name}" in line
        }
        shown["images/s"] = rates["images_per_s"]
        bar.advance(**shown, wait=f"{rates['data_wait_share']:.0%}")

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            extra = {"skipped": self.skipped, "scaler": scaler.state_dict() if scaler is not None else None}
            state = ckpt.Checkpoint(
                self.step, self.segmenter.state_dict(), ckpt.flatten_optimiser(self.optimiser), extra
            )
            ckpt.save(self.run.checkpoints, state, self.config.train.keep_checkpoints)
            self.run.write_status("running", step=self.step, exit_code=None)
        self.accelerator.wait_for_everyone()

    def _restore(self) -> None:
        state = ckpt.load_newest(self.run.checkpoints)
        if state is None:
            return
        self.segmenter.load_state_dict(state.model)
        ckpt.restore_optimiser(self.optimiser, state.optimiser)
        if self.accelerator.scaler is not None and state.extra["scaler"]:
            self.accelerator.scaler.load_state_dict(state.extra["scaler"])
        self.step, self.skipped = state.step, state.extra["skipped"]
        if self.accelerator.is_main_process:
            drop_metrics_after(self.run.metrics, self.step)
        console.say(f"resuming {self.run.root} after step {self.step}")

    def _stopped(self) -> int:
        console.say(f"stopped by a signal: step {self.step} is saved, resume with --resume", style="yellow")
        if self.accelerator.is_main_process:
            self.run.write_status("saved", step=self.step, exit_code=SAVED)
        return SAVED

    def _finish(self) -> None:
        console.say("clustering training codes by k-means")
        features = features_of(self.config, self.samples, self.backbone, self.bank, self.device)
        self.segmenter.eval()
        codes = draw_codes(self.config, self.accelerator, len(self.samples), features, self.segmenter.head)
        if self.accelerator.is_main_process:
            self.segmenter.kmeans.copy_(find_clusters(self.config, codes, self.segmenter.num_clusters))
            self.segmenter.save(self.run.model, step=self.step, name=self.config.name)
            self.run.write_status("done", step=self.step, exit_code=0, skipped=self.skipped)
            console.say(f"trained model: {self.run.model}; next: stego-dist eval {self.run.root}")
        self.accelerator.wait_for_everyone()


def _timed(batches: Iterator[Batch]) -> Iterator[tuple[Batch, float]]:
    """Batches with the seconds that were spent waiting for each."""
    while True:
        start = time.perf_counter()
        batch = next(batches)
        yield batch, time.perf_counter() - start
