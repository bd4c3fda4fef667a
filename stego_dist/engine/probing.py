"""Both probes trained on frozen codes, as a run trains its own: the same losses, optimiser, steps and batch size.

Batches are a function of (seed, step): consecutive pieces of one permutation of the images after the other. A rank
takes the images of a batch that it has features of, and gradients are sums over the whole batch, so the number of
processes changes them by rounding alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn

from stego_dist import console
from stego_dist.config import Config
from stego_dist.engine.frozen import FrozenFeatures, Ids
from stego_dist.engine.step import probe_losses
from stego_dist.losses.draws import draw_lines, generator
from stego_dist.losses.linear import count_labelled
from stego_dist.models.segmenter import Segmenter


def train_probes(
    config: Config,
    accelerator: Accelerator,
    segmenter: Segmenter,
    frozen: FrozenFeatures,
    *,
    cluster: bool = True,
    linear: bool = True,
) -> None:
    """Train the cluster probe (unless `cluster` is false) and, with labels, the linear probe (unless `linear` is).

    All ranks call it.
    """
    wanted: dict[str, nn.Module] = {"cluster": segmenter.cluster} if cluster else {}
    if linear and segmenter.linear is not None and frozen.labelled:
        wanted["linear"] = segmenter.linear
    if not wanted:
        return
    parameters = [p for module in wanted.values() for p in module.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=config.train.lr_probes)
    mine = set(frozen.mine.tolist())
    steps = config.train.steps
    with console.progress("probes", steps, "steps") as bar:
        for step, ids in zip(range(steps), _batches(config.seed, frozen.ids, config.train.batch_size)):
            places = np.array([place for place, i in enumerate(ids.tolist()) if i in mine], dtype=np.int64)
            losses = _losses(config, accelerator, segmenter, frozen, step, ids, places, "linear" in wanted)
            optimiser.zero_grad()
            for name in wanted:
                if name in losses:
                    losses[name].backward()  # type: ignore[no-untyped-call]
            _sum_gradients(accelerator, parameters)
            optimiser.step()
            bar.advance()
    optimiser.zero_grad(set_to_none=True)


def share(segmenter: Segmenter, accelerator: Accelerator) -> None:
    """Give all ranks the main process's segmenter."""
    if accelerator.num_processes > 1:
        for tensor in segmenter.state_dict().values():
            dist.broadcast(tensor, 0)


def _batches(seed: int, ids: Ids, size: int) -> Iterator[Ids]:
    """Batches of `size` ids without end."""
    left, epoch = ids[:0], 0
    while True:
        while len(left) < size:
            order = torch.randperm(len(ids), generator=generator(seed, "probes", epoch)).numpy()
            left, epoch = np.concatenate([left, ids[order]]), epoch + 1
        yield left[:size]
        left = left[size:]


def _losses(
    config: Config, accelerator: Accelerator, segmenter: Segmenter, frozen: FrozenFeatures, step: int, ids: Ids,
    places: Ids, linear: bool,
) -> dict[str, Tensor]:  # fmt: skip
    """This rank's parts of the losses of a batch, which add up to them over ranks; none without images."""
    labels = frozen.labels(ids[places]) if linear and len(places) else None
    scale: Tensor | float = 0.0
    if linear:
        none = torch.zeros((), dtype=torch.int64, device=accelerator.device)
        scale = 1 / accelerator.reduce(none if labels is None else count_labelled(labels), "sum").clamp(min=1)
    if not len(places):
        return {}
    lines = None
    if labels is not None and config.train.linear_points is not None:
        height, width = labels.shape[1:]
        drawn = draw_lines(
            seed=config.seed, step=step, groups=range(1), size=len(ids), count=config.train.linear_points,
            height=height, width=width,
        )  # fmt: skip
        lines = drawn[0][places].to(labels.device), drawn[1][places].to(labels.device)
    with torch.no_grad():
        code = segmenter.head(frozen.features(ids[places])).float()
    losses = probe_losses(segmenter, code, labels, scale, lines)
    return {**losses, "cluster": losses["cluster"] * (len(places) / len(ids))}


def _sum_gradients(accelerator: Accelerator, parameters: list[nn.Parameter]) -> None:
    if accelerator.num_processes == 1:
        return
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    parts = accelerator.reduce(flat, "sum").split([p.numel() for p in parameters])
    for parameter, part in zip(parameters, parts):
        parameter.grad = part.view_as(parameter)
