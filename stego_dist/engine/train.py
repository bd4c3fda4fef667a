"""`train(config)`: what `accelerate launch -m stego_dist train CONFIG` runs on every rank.

1. open shards, table and features, refusing what does not belong together; calibrate the loss where it is `auto`;
2. resume from the newest whole checkpoint, or start from the seed;
3. step: batch → features → draws → loss → gradients → agreement on finiteness and stopping → optimiser;
4. every so often: numbers, validation, checkpoint;
5. at the end: the selected weights, k-means over their training codes, then the finished model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError
from torch import Tensor

from stego_dist import console
from stego_dist.config import Config
from stego_dist.data.manifest import ShardSet
from stego_dist.engine.coefficients import describe as describe_coefficients
from stego_dist.engine.feed import Batch
from stego_dist.engine.heartbeat import Heartbeat
from stego_dist.engine.inputs import provenance
from stego_dist.engine.learner import Learner
from stego_dist.engine.live import View, training_view
from stego_dist.engine.monitor import REMEDY, Monitor, not_finite
from stego_dist.engine.opened import Opened
from stego_dist.engine.profile import profiled
from stego_dist.engine.record import explained, prepare_run_dir, record_failure, watched
from stego_dist.engine.saving import restore_run, save_run
from stego_dist.engine.selection import better, describe, load_selected
from stego_dist.engine.setup import StopFlag, Stopped, agreed, make_accelerator, on_main_process, stop_on_signals
from stego_dist.engine.trackers import start_trackers
from stego_dist.engine.validate import Validation, make_validator
from stego_dist.errors import UserError
from stego_dist.rundir import RunDir, write_json, writing_to

SAVED = 75
"""Exit code: saved, to be resumed."""

Draw = Callable[[Validation, ShardSet, Path], None]
"""Draws a validation's panels into a file; drawing belongs to a layer above this one."""
Report = Callable[[int, dict[str, float]], None]
"""Is told the step and the numbers of every validation; what it raises stops the run."""


def train(config: Config, *, resume: bool = False, overwrite: bool = False, draw: Draw | None = None) -> int:
    """Train a run on the launched processes; returns the exit code: 0 done, 75 stopped by a signal and saved.

    `draw` (report.panels.write_samples) makes the pictures of train.panels; without it there are none.
    Raises UserError for anything the user can mend. The run directory's status.json says what became of it.
    """
    accelerator = make_accelerator(config.train.precision, config.train.timeout_minutes)
    return train_on(accelerator, config, resume=resume, overwrite=overwrite, draw=draw).exit_code


@dataclass(frozen=True)
class Trained:
    """What became of a call."""

    exit_code: int
    seconds: float
    """That this call spent on steps, waiting for batches included."""


def train_on(
    accelerator: Accelerator,
    config: Config,
    *,
    resume: bool = False,
    overwrite: bool = False,
    draw: Draw | None = None,
    report: Report | None = None,
    opened: Opened | None = None,
) -> Trained:
    """`train` with an Accelerator that is there, whose trackers it ends, and what is open already.

    `report` is called on the main process once what a validation found is recorded. An error of its own stops the run,
    which is saved ("stopped" in status.json), and comes through as it is.
    """
    run = RunDir(Path(config.run_dir))
    trainer: Trainer | None = None

    def status() -> dict[str, Any]:
        return trainer.status() if trainer else {"step": 0}

    with stop_on_signals() as stop, watched(run, accelerator, config.train.timeout_minutes, status) as beat:
        try:
            prepare_run_dir(run, config, accelerator, resume, overwrite)
            try:
                opened = opened or Opened(config, accelerator.device)
                trainer = Trainer(config, run, accelerator, stop, beat, opened, draw, report)
                code = trainer.run_to_end()
                return Trained(code, trainer.monitor.seconds)
            except BaseException as error:
                if trainer is not None and error is trainer.told_to_stop:
                    raise
                reason = explained(error, run, accelerator, beat)
                record_failure(run, accelerator, reason, **status())
                if reason is error:
                    raise
                raise reason from error
        finally:
            accelerator.end_training()


class Trainer:
    """Everything a rank holds while it trains."""

    def __init__(
        self, config: Config, run: RunDir, accelerator: Accelerator, stop: StopFlag, beat: Heartbeat, opened: Opened,
        draw: Draw | None, report: Report | None,
    ) -> None:  # fmt: skip
        self.run, self.accelerator, self.stop, self.beat = run, accelerator, stop, beat
        self.draw, self.report = draw, report
        self.told_to_stop: BaseException | None = None
        """What `report` raised."""
        self.learner = learner = Learner(config, accelerator, run, opened)
        self.asked, self.config = config.loss, learner.config
        self.segmenter, self.optimiser = learner.segmenter, learner.optimiser
        self.validator = make_validator(config, accelerator, self.segmenter, opened)
        self.score = self.validator.score if self.validator else None
        self.state = restore_run(run, accelerator, self.segmenter, self.optimiser)
        start_trackers(self.config, run, accelerator, self.state.step)
        if accelerator.is_main_process:
            write_json(run.provenance, provenance(learner.fingerprint))
        self._describe()

    def _describe(self) -> None:
        c, samples = self.config, self.learner.samples
        console.say(
            f"training {c.name}: {len(samples)} crops ({'labelled' if samples.split.labelled else 'no labels'}) from "
            f"{self.learner.shard_set.root}, {c.backbone.name}, features {c.train.features}, {c.train.steps} steps of "
            f"{c.train.batch_size} images in {c.groups} group(s), {self.accelerator.num_processes} process(es) on "
            f"{self.accelerator.device.type}, {c.train.precision}"
            + (f", {c.train.accumulate} parts a step" if c.train.accumulate > 1 else "")
        )

    def status(self) -> dict[str, Any]:
        """What status.json says beside state and exit code."""
        state = self.state
        selected = describe(self.config.train.select, state.selected, state.step)
        warnings = list(state.warnings.values())
        return {
            "step": state.step, "skipped": state.skipped, "selected": selected, "warnings": warnings,
            "coefficients": describe_coefficients(self.asked, self.config.loss),
        }  # fmt: skip

    def run_to_end(self) -> int:
        """Train from where the run stands; returns the exit code."""
        total, done = self.config.train.steps, self.state.step
        self._write_status("running", None)
        try:
            with (
                training_view(total, done) as view,
                profiled(self.run.profile, done, self.config.train.profile) as recorded,
            ):
                self.monitor = Monitor(self.config, self.run, self.accelerator, self.state, view, self.asked)
                if done and self._validation_is_due():  # one that a signal cut short
                    self._validate_and_save(view, due=False)
                for batch, waited in _timed(self.learner.batches(done)) if done < total else ():
                    self._advance(batch, waited, view)
                    recorded()
                    if self.state.step >= total:
                        break
            self._finish()
        except Stopped:
            at = f"step {self.state.step} is saved, resume with --resume"
            console.say(f"stopped by a signal or by the launcher's end: {at}", style="yellow")
            self._write_status("saved", SAVED)
            return SAVED
        return 0

    def _advance(self, batch: Batch, waited: float, view: View) -> None:
        """One step, and what is due after it. Raises Stopped when a signal asks for it, after saving."""
        start = time.perf_counter()
        t, state = self.config.train, self.state
        self.beat.at(state.step + 1, "in")
        finite, log = self.learner.gradients(batch, state.step)
        bad, stopping = agreed(self.accelerator, not finite, self.stop.raised)
        if not bad:
            self.optimiser.step()
            state.skipped += self.optimiser.step_was_skipped  # by the scaler of float16 gradients
        self.optimiser.zero_grad()
        state.step += 1
        if bad:
            self._not_finite(log)
        self.monitor.step(log, waited, time.perf_counter() - start)
        self.beat.at(state.step, "after")
        due = stopping or state.step % t.checkpoint_every == 0 or state.step == t.steps
        if self._validation_is_due() and not stopping:
            self._validate_and_save(view, due=due)
        elif due:
            self._save(view)
        if stopping:
            raise Stopped
        self.beat.at(state.step + 1, "waiting for the data of")

    def _validate_and_save(self, view: View, *, due: bool) -> None:
        """Validate; save where it is due, where these weights are selected, and where the run is told to stop.

        Raises Stopped, and what `report` raises, after saving.
        """
        try:
            numbers, chosen = self._validate(view)
        except Stopped:
            self._save(view)
            raise
        if due or chosen:
            self._save(view)
        if self.report is None or not self.accelerator.is_main_process:
            return
        try:
            self.report(self.state.step, numbers)
        except BaseException as error:
            if not (due or chosen):
                self._save(view)
            self.told_to_stop = error
            self._write_status("stopped", None)
            raise

    def _not_finite(self, log: dict[str, Tensor]) -> None:
        self.state.skipped += 1
        message = not_finite(self.accelerator, self.state.step, log)
        if self.config.train.non_finite == "stop":
            raise UserError(
                f"{message}; the last checkpoint is intact; lower train.lr_head, use train.precision=fp32 or bf16, or "
                "leave such steps out with train.non_finite=skip"
            )
        console.warn(f"{message}; the step is left out ({self.state.skipped} so far)")

    def _validation_is_due(self) -> bool:
        step, every = self.state.step, self.config.train.validation_interval
        due = bool(every) and (step % every == 0 or step == self.config.train.steps)
        return due and self.validator is not None and self.state.validated != step

    def _validate(self, view: View) -> tuple[dict[str, float], bool]:
        """Validate, write numbers and pictures; the numbers, and whether this step is the best yet. Raises Stopped."""
        assert self.validator is not None
        validation = self.validator(lambda: self.stop.check(self.accelerator))
        state = self.state
        state.validated = state.step
        self.monitor.validated(validation.numbers)
        if self.draw is not None and validation.panels and self.accelerator.is_main_process:
            with writing_to(self.run.samples, REMEDY):
                self.draw(validation, self.learner.shard_set, self.run.samples / f"step-{state.step:08d}.png")
        found = better(self.config.train.select, state.selected, state.step, validation.numbers)
        state.selected = found or state.selected
        return validation.numbers, found is not None

    def _save(self, view: View) -> None:
        def save() -> None:
            path = save_run(self.config, self.run, self.accelerator, self.segmenter, self.optimiser, self.state)
            view.note("checkpoint", str(path))
            self._write_status("running", None)

        on_main_process(self.accelerator, save)

    def _write_status(self, state: str, exit_code: int | None) -> None:
        if self.accelerator.is_main_process:
            with writing_to(self.run.root, REMEDY):
                self.run.write_status(state, exit_code=exit_code, **self.status())

    def _finish(self) -> None:
        """The chosen weights and their k-means clusters become the model. Raises Stopped."""
        state = self.state
        chosen = load_selected(
            self.config.train.select, state.selected, state.step, self.run.checkpoints, self.segmenter
        )
        if chosen["by"] == "last":
            state.selected = None
        share, clustering = self.learner.cluster(self.stop)
        self.monitor.finished(share)
        found: dict[str, Any] = {"clustering": clustering, "classes": self.learner.shard_set.described_classes}
        if self.score is not None:
            score = self.score(self.segmenter, self.config.eval.clusters)
            found["label_free"] = {name.removeprefix("val/"): value for name, value in score.items()}
            value, error = score["val/label_free"], score["val/label_free_error"]
            console.say(f"label-free score of the {self.config.eval.clusters} clusters: {value:.4f} ± {error:.4f}")

        def save() -> None:
            try:
                self.segmenter.save(
                    self.run.model, step=chosen["step"], name=self.config.name, selected=chosen, **found
                )
                self._write_status("done", 0)
            except (OSError, SafetensorError) as error:
                raise UserError(f"could not write {self.run.model}: {error}; free space and resume") from None
            console.say(f"trained model: {self.run.model}; next: stego-dist eval {self.run.root}")

        on_main_process(self.accelerator, save)


def _timed(batches: Iterator[Batch]) -> Iterator[tuple[Batch, float]]:
    """Batches with the seconds that were spent waiting for each."""
    while True:
        start = time.perf_counter()
        batch = next(batches)
        yield batch, time.perf_counter() - start
