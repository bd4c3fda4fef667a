"""Who multiplies: the best inner products of queries with a block of descriptors, by FAISS or torch, on CPU or GPU.

A kernel keeps a block in the form it searches (`load`) and returns candidates in float32 (`top_k`). Its products may be
off by `rounding(dim)`; which of equal ones it takes is its own affair. The search makes one result of all of them.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from stego_dist.errors import UserError

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Stored = NDArray[Any]
"""Descriptors as they are stored: float16 or float32, unit length, multiples of 2⁻²⁴."""

SCORES = 2**24
"""Products that torch holds at a time (64 MiB)."""


class Kernel(Protocol):
    """Finds candidates."""

    name: str

    def load(self, rows: Stored) -> Any:
        """The block (n, D) in the form and in the place in which it is searched."""

    def top_k(self, queries: Floats, block: Any, k: int) -> tuple[Floats, Ids]:
        """The k ≤ n largest inner products (Q, k) of queries (Q, D), largest first, and their rows in the block."""

    def rounding(self, dim: int) -> float:
        """Bound on the error of a product of unit vectors of this width."""


def float32_rounding(dim: int) -> float:
    """γ_D = D·2⁻²⁴ for sums of D products in float32 in any order (Higham, 2002, §3.1), and a little more."""
    return 1.01 * dim * 2.0**-24


class FaissKernel:
    """FAISS on the CPU's cores."""

    name = "FAISS on the CPU"

    def load(self, rows: Stored) -> Stored:
        return rows

    def top_k(self, queries: Floats, block: Stored, k: int) -> tuple[Floats, Ids]:
        import faiss

        wide = np.ascontiguousarray(block, dtype=np.float32)
        return faiss.knn(queries, wide, k, metric=faiss.METRIC_INNER_PRODUCT)

    def rounding(self, dim: int) -> float:
        return float32_rounding(dim)


class FaissGpuKernel:
    """FAISS on a GPU; blocks stay there as flat indexes, in float16 where they are stored so."""

    name = "FAISS on the GPU"

    def __init__(self) -> None:
        import faiss

        self.resources = faiss.StandardGpuResources()

    def load(self, rows: Stored) -> Any:
        import faiss

        options = faiss.GpuIndexFlatConfig()
        options.useFloat16 = rows.dtype == np.float16
        index = faiss.GpuIndexFlatIP(self.resources, rows.shape[1], options)
        index.add(np.ascontiguousarray(rows, dtype=np.float32))
        return index

    def top_k(self, queries: Floats, block: Any, k: int) -> tuple[Floats, Ids]:
        values, rows = block.search(queries, k)
        return values, rows

    def rounding(self, dim: int) -> float:
        return 4 * float32_rounding(dim)  # tensor cores cut off instead of rounding


class TorchKernel:
    """Torch on the GPU where there is one, else on the CPU; never in TF32."""

    def __init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.name = f"torch on the {'GPU' if self.device.type == 'cuda' else 'CPU'}"

    def load(self, rows: Stored) -> torch.Tensor:
        return torch.from_numpy(np.array(rows)).to(self.device)

    def top_k(self, queries: Floats, block: torch.Tensor, k: int) -> tuple[Floats, Ids]:
        wide = block.float().T
        parts = [
            (part.to(self.device) @ wide).topk(k, dim=1)
            for part in torch.split(torch.from_numpy(queries), max(1, SCORES // len(block)))
        ]
        return torch.cat([p.values for p in parts]).cpu().numpy(), torch.cat([p.indices for p in parts]).cpu().numpy()

    def rounding(self, dim: int) -> float:
        return float32_rounding(dim)


def kernel(name: Literal["auto", "faiss", "torch"]) -> Kernel:
    """By name; `auto` is FAISS, or torch where FAISS is missing or there is a GPU that FAISS does not see."""
    if name == "torch":
        return TorchKernel()
    try:
        import faiss
    except (ImportError, OSError) as error:
        if name == "faiss":
            raise UserError(f"knn.backend: faiss can't be loaded ({error}); use torch") from None
        return TorchKernel()
    if faiss.get_num_gpus() > 0:
        return FaissGpuKernel()
    return TorchKernel() if name == "auto" and torch.cuda.is_available() else FaissKernel()
