"""Inner products by torch, where FAISS is missing or does not see the GPU."""

from __future__ import annotations

import numpy as np
import torch

from stego_dist.knn.kernels import Floats, Ids, Stored, float32_rounding

SCORES = 2**24
"""Products that are held at a time (64 MiB)."""


class TorchKernel:
    """Torch on the GPU where there is one, else on the CPU; never in TF32."""

    def __init__(self) -> None:
        self.on_gpu = torch.cuda.is_available()
        self.device = torch.device("cuda" if self.on_gpu else "cpu")
        self.name = f"torch on the {'GPU' if self.on_gpu else 'CPU'}"

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
