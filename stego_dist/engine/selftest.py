"""Whether processes can work together here: a sum over ranks and a tiny training step, really done.

In processes that a launcher started it is their group that is tested, over all hosts. Without a launcher two processes
of this machine are started: on two GPUs over NCCL, else on the CPU over gloo.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from stego_dist.engine.setup import make_accelerator
from stego_dist.engine.step import LossSettings, TrainStep, parameter_groups
from stego_dist.errors import UserError
from stego_dist.losses.draws import draw_step
from stego_dist.models.segmenter import Segmenter
from stego_dist.network import free_port
from stego_dist.system import Finding, gpu_driver

TIMEOUT_MINUTES = 1.0
MEGABYTES = 16
FIRST_PORT = 21000


def gpus() -> Iterator[Finding]:
    """What torch sees of GPUs, and what the driver does."""
    driver, count = gpu_driver(), torch.cuda.device_count() if torch.cuda.is_available() else 0
    built = f"torch {torch.__version__} for CUDA {torch.version.cuda}"
    if count:
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(count))
        yield Finding("GPUs", "ok", f"{count}: {names} ({driver or 'no nvidia-smi'}), {built}")
    elif driver:
        yield Finding(
            "GPUs", "wrong", f"the driver has {driver}, but torch sees none ({built})",
            "compare the driver with torch's CUDA; look at CUDA_VISIBLE_DEVICES and the allocation (--gpus-per-node)",
        )  # fmt: skip
    else:
        yield Finding("GPUs", "ok", f"none, so everything runs on the CPU ({built})")
    distributed = torch.distributed
    version: Any = torch.cuda.nccl.version
    nccl = ".".join(map(str, version())) if count and distributed.is_nccl_available() else "not used"
    yield Finding(
        "collectives", "ok", f"gloo {'is there' if distributed.is_gloo_available() else 'missing'}, NCCL {nccl}"
    )


def tiny_step() -> dict[str, Any]:
    """Join the process group, sum over it, train a step; what was found, the same on every rank.

    Raises UserError when processes don't come together or their results differ.
    """
    accelerator = make_accelerator("fp32", TIMEOUT_MINUTES)
    try:
        return _tiny_step(accelerator)
    finally:
        accelerator.end_training()  # a group that is left to the interpreter's end may abort it


def _tiny_step(accelerator: Accelerator) -> dict[str, Any]:
    rank, ranks, device = accelerator.process_index, accelerator.num_processes, accelerator.device
    summed = accelerator.reduce(torch.tensor(rank + 1, device=device), "sum")
    if int(summed) != ranks * (ranks + 1) // 2:
        raise UserError(f"the sum of 1 to {ranks} over {ranks} processes came out as {int(summed)}")
    block = torch.ones(MEGABYTES * 2**18, device=device)
    accelerator.wait_for_everyone()
    start = time.perf_counter()
    accelerator.reduce(block, "sum")
    accelerator.wait_for_everyone()
    rate = MEGABYTES / (time.perf_counter() - start)

    torch.manual_seed(0)
    segmenter = Segmenter(dim=16, code_dim=6, projection="nonlinear", num_clusters=3, num_classes=3)
    step = TrainStep(segmenter, LossSettings((0.67, 0.25, 0.63), (0.1, 0.1, 0.5)))
    model, optimiser = accelerator.prepare(step.to(device), torch.optim.Adam(parameter_groups(segmenter, 1e-3, 1e-3)))
    feats = torch.randn(8, 16, 6, 6, generator=torch.Generator().manual_seed(rank)).to(device)
    draws = draw_step(
        seed=0, step=0, groups=range(rank, rank + 1), size=4, points=3, negatives=2, channels=16, dropout=0.1
    ).to(device)
    labels = torch.zeros(4, 24, 24, dtype=torch.uint8, device=device)
    loss, _ = model(feats[:4], feats[4:], draws, labels, ranks / (ranks * labels.numel()))
    accelerator.backward(loss)
    optimiser.step()
    weights = [float(sum(p.detach().double().sum() for p in segmenter.parameters()))]
    if len(set(gather_object(weights))) != 1 or not torch.isfinite(loss):
        raise UserError("after a training step the weights of the processes differ, or the loss is not finite")
    hosts = sorted(set(gather_object([os.uname().nodename])))
    backend = torch.distributed.get_backend() if ranks > 1 else "none"
    return {"processes": ranks, "hosts": hosts, "device": device.type, "backend": backend, "megabytes_per_s": rate}


def group() -> Finding:
    """The finding about the launched processes, or about two of this machine."""
    name = "two processes"
    try:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            name, found = "all processes", tiny_step()
        else:
            found = _of_two()
    except UserError as error:
        return Finding(name, "wrong", str(error), "the lines about interfaces and names above say what to look at")
    where = f"{found['processes']} processes on {', '.join(found['hosts'])} ({found['device']})"
    rate = f"{found['megabytes_per_s']:.0f} MB/s"
    return Finding(name, "ok", f"{where}: all-reduce over {found['backend']} at {rate}, a training step")


def _of_two() -> dict[str, Any]:
    """Start two ranks of this module. Raises UserError with what they printed."""
    environment = {
        **os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port(FIRST_PORT + os.getpid() % 5000)), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    if torch.cuda.device_count() < 2:
        environment |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", __name__], env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    printed = []
    try:
        for rank in ranks:
            printed.append(rank.communicate(timeout=60 * (TIMEOUT_MINUTES + 2)))
    except subprocess.TimeoutExpired:
        raise UserError(
            f"two processes of this machine did not come through in {TIMEOUT_MINUTES + 2:g} minutes"
        ) from None
    finally:
        for rank in ranks:
            rank.kill()
    for number, (rank, (_, errors)) in enumerate(zip(ranks, printed)):
        if rank.returncode:
            last = (errors.strip().splitlines() or ["nothing printed"])[-1]
            raise UserError(f"process {number} of two ended with {rank.returncode}: {last}")
    found: dict[str, Any] = json.loads(printed[0][0].strip().splitlines()[-1])
    return found


def main() -> int:
    """A rank of `_of_two`."""
    try:
        found = tiny_step()
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
