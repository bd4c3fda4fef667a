"""Which implementation of the dense CRF runs where, behind one function from images and maps to winners."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stego_dist.errors import ConfigError

Backend = Literal["library", "torch"]


def choose_backend(wanted: Literal["auto", "library", "torch"], device: str) -> Backend:
    """ "auto": the library on a CPU where it is installed, torch otherwise. `device`: "cpu", "cuda", ….

    Raises ConfigError when the library is asked for and is not there.
    """
    there = importlib.util.find_spec("pydensecrf") is not None
    if wanted == "library" and not there:
        raise ConfigError(
            "eval.crf_backend: the module pydensecrf is not installed; install pydensecrf2 (it needs a C++ compiler), "
            "or take eval.crf_backend=torch, which gives the same"
        )
    if wanted != "auto":
        return wanted
    return "library" if there and device == "cpu" else "torch"


def winners(
    backend: Backend, image_bgr: NDArray[np.uint8], maps: Sequence[NDArray[np.float32]]
) -> list[NDArray[np.int16]]:
    """Winning cluster or class (H, W) of each map (K, H, W) of an image (H, W, 3), blue first, on this CPU."""
    if backend == "library":
        from stego_dist.crf.dense import dense_crfs

        marginals = dense_crfs(image_bgr, maps)
    else:
        import torch

        from stego_dist.crf.mean_field import mean_field

        batches = [torch.from_numpy(log_probs)[None] for log_probs in maps]
        marginals = [q[0].numpy() for q in mean_field(torch.from_numpy(image_bgr)[None], batches)]
    return [q.argmax(0).astype(np.int16) for q in marginals]
