"""Which step's weights become the model: the last one's, or those that validation scored best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError

from stego_dist import console
from stego_dist.engine import checkpoint as ckpt
from stego_dist.errors import UserError
from stego_dist.models.segmenter import Segmenter

Select = Literal["last", "label_free", "miou"]
SCORES = {"label_free": "val/label_free", "miou": "val/miou_learned"}


@dataclass(frozen=True)
class Selected:
    """The best step so far."""

    step: int
    score: float


def better(select: Select, best: Selected | None, step: int, numbers: Mapping[str, float]) -> Selected | None:
    """This step's selection when its validation beats the best so far, else None."""
    score = numbers.get(SCORES.get(select, ""), math.nan)
    if math.isfinite(score) and (best is None or score > best.score):
        return Selected(step, score)
    return None


def load_selected(select: Select, best: Selected | None, step: int, root: Path, segmenter: Segmenter) -> dict[str, Any]:
    """Put the selected weights into the segmenter, which holds those of the last `step`; returns `describe`.

    `root`: the folder of checkpoints. When the selected one can't be read, the last weights stay, with a warning.
    """
    if select != "last" and best is not None and best.step != step:
        path = ckpt.path_of(root, best.step)
        try:
            segmenter.load_state_dict(ckpt.load(path).model)
            console.say(f"the model is that of step {best.step}, selected by {select} ({best.score:.4f})")
        except (UserError, OSError, KeyError, SafetensorError) as error:
            console.warn(f"the selected checkpoint {path} is damaged ({error}); the last weights become the model")
            best = None
    return describe(select, best, step)


def describe(select: Select, best: Selected | None, step: int) -> dict[str, Any]:
    """How the model was chosen, for records; `step` is the last one."""
    if select == "last" or best is None:
        return {"by": "last", "uses_labels": False, "step": step}
    return {"by": select, "uses_labels": select == "miou", "step": best.step, "score": best.score}
