"""Where the time of a step goes on a device, and what share of its measured matrix rate the backbone reaches."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from stego_dist.features.bank import ResidentBank
from stego_dist.features.store import FeatureStore
from tests.benchmarks.stepping import Ours, Shape
from tests.benchmarks.timing import table


def report(shape: Shape, store: FeatureStore, rows: list[list[object]]) -> None:
    """The backbone's share of the card's measured matrix rate, and where the time of a step goes."""
    device = shape.device
    images = torch.cat([shape.images(0), shape.images(1)]).to(device)
    backbone = shape.backbone()

    def seconds(work: Callable[[], object], times: int = 20) -> float:
        for _ in range(3):
            work()
        _wait(device)
        start = time.perf_counter()
        for _ in range(times):
            work()
        _wait(device)
        return (time.perf_counter() - start) / times

    side = 8192 if device.type == "cuda" else 512
    square = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    limit = 2 * side**3 / seconds(lambda: square @ square)
    with FlopCounterMode(display=False) as counter:
        plain = shape.backbone()
        for block in plain.model.blocks:
            block.attn.fused_attn = False  # the same products, written out so that they are counted
        plain(images[:1])
    flops = counter.get_total_flops() * len(images)
    with torch.autocast(device.type, torch.bfloat16):
        reached = flops / seconds(lambda: backbone(images))
        fast = torch.compile(backbone, dynamic=False) if device.type == "cuda" else backbone
        compiled = flops / seconds(lambda: fast(images))
    shares = [[name, rate / 1e12, f"{rate / limit:.0%}"] for name, rate in
              (("square product, bf16", limit), ("backbone", reached), ("backbone, compiled", compiled))]  # fmt: skip
    print(table("Backbone forward of a step's images", ["", "TFLOP/s", "share"], shares))
    steps = {row[0]: row[1] for row in rows}
    print(f"5,000 bank steps: {5000 / float(str(steps['bank held on the device'])):.1f} s\n")
    bank = ResidentBank(store, device)
    for name, step in (("online, bf16", Ours(shape, backbone, half=True)), ("bank", Ours(shape, backbone, bank=bank))):
        for _ in range(3):
            step()
        with torch.profiler.profile() as profile:
            for _ in range(5):
                step()
        key = f"self_{device.type}_time_total" if device.type == "cuda" else "self_cpu_time_total"
        print(f"**Where the time goes: {name}, 5 steps**\n")
        print(profile.key_averages().table(sort_by=key, row_limit=18, max_name_column_width=60))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
