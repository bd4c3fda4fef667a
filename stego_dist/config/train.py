"""The section `train`: optimisation, what is saved and shown, and which weights are kept."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stego_dist.config.section import Positive, Section

Tracker = Literal[
    "tensorboard", "wandb", "mlflow", "comet_ml", "aim", "clearml", "dvclive", "swanlab", "trackio"
]  # fmt: skip


class TrainConfig(Section):
    """Optimisation."""

    steps: Positive = 5000
    """Optimiser steps."""
    batch_size: Positive = 16
    """Images of the global batch, over all processes; a multiple of loss.group_size."""
    accumulate: Positive = 1
    """Parts that a process cuts its share of the global batch into, one after the other, to need less memory; whole
    groups, so processes times this must divide the number of groups. No effect on results beyond rounding."""
    features: Literal["online", "bank"] = "online"
    """Run the backbone in every step, or read its features from the bank."""
    bank: Literal["auto", "memory-map", "device"] = "auto"
    """How the bank is read: by memory map, or held on the device; `auto` holds it on a GPU where it fits, and maps it
    otherwise. The batches have the same bits."""
    lr_head: Annotated[float, Field(gt=0)] = 5e-4
    """Adam's learning rate of the head."""
    lr_probes: Annotated[float, Field(gt=0)] = 5e-3
    """Adam's learning rate of both probes."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast of backbone and head; the loss is always float32."""
    compile: bool = False
    """Compile the step, and the backbone where it runs online, by torch.compile: for GPUs. On a CPU it needs a C++
    compiler and a minute or two, and was measured a tenth slower than without."""
    linear_points: Positive | None = None
    """S: the linear probe's loss takes S×S pixels of every image, drawn afresh in every step; its mean is the loss over
    all pixels. None: every pixel."""
    non_finite: Literal["stop", "skip"] = "stop"
    """A loss that is not finite: stop with an error, or leave the step out and count it."""
    log_every: Positive = 10
    """Steps between lines of metrics.jsonl."""
    checkpoint_every: Positive = 500
    """Steps between checkpoints."""
    keep_checkpoints: Positive = 2
    """Newest checkpoints that are kept, beside the selected one."""
    timeout_minutes: Annotated[float, Field(gt=0)] = 10.0
    """How long a process waits for the others before it gives them up for lost."""
    validate_every: Annotated[int, Field(ge=0)] | None = None
    """Steps between validations, the last step included; none: a tenth of train.steps; 0: off."""
    validate_images: Annotated[int, Field(ge=2)] = 32
    """Images of data.eval_split that are validated on, evenly spread; their features stay in memory (float16)."""
    panels: Annotated[int, Field(ge=0)] = 3
    """Images that are pictured at every validation, in RUN/samples."""
    select: Literal["last", "label_free", "miou"] = "last"
    """Which weights become the model: those of the last step, or of the best validation by the label-free score or by
    the learned clusters' mIoU; the last uses labels, and the record says so."""
    trackers: tuple[Tracker, ...] = ("tensorboard",)
    """Where numbers go beside metrics.jsonl, by Accelerate's trackers; all but TensorBoard need their own package."""
    profile: Annotated[int, Field(ge=0)] = 0
    """Steps recorded by torch's profiler into RUN/profile, after five that are not; 0: none."""

    @property
    def validation_interval(self) -> int:
        """Steps between validations; 0: none."""
        return max(1, self.steps // 10) if self.validate_every is None else self.validate_every
