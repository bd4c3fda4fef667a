"""Who multiplies: the best inner products of queries with a block of descriptors, by FAISS or torch, on CPU or GPU.

A kernel keeps a block in the form it searches (`load`) and returns candidates in float32 (`top_k`). Its products may be
off by `rounding(dim)`; which of equal ones it takes is its own affair. The search makes one result of all of them.

Torch is loaded only where it multiplies or may know of a GPU: a worker that searches by FAISS starts seconds earlier
and holds hundreds of megabytes less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stego_dist.errors import UserError
from stego_dist.system import may_have_gpu

if TYPE_CHECKING:
    from stego_dist.knn.torch_kernel import TorchKernel

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Stored = NDArray[Any]
"""Descriptors as they are stored: float16 or float32, unit length, multiples of 2⁻²⁴."""


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


def kernel(name: Literal["auto", "faiss", "torch"]) -> Kernel:
    """By name; `auto` is FAISS, or torch where FAISS is missing or there is a GPU that FAISS does not see."""
    if name == "torch":
        return _torch_kernel()
    try:
        import faiss
    except (ImportError, OSError) as error:
        if name == "faiss":
            raise UserError(f"knn.backend: faiss can't be loaded ({error}); use torch") from None
        return _torch_kernel()
    if faiss.get_num_gpus() > 0:
        return FaissGpuKernel()
    if name == "auto" and may_have_gpu() and (found := _torch_kernel()).on_gpu:
        return found
    return FaissKernel()


def _torch_kernel() -> TorchKernel:
    from stego_dist.knn.torch_kernel import TorchKernel

    return TorchKernel()
