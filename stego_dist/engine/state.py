"""What a run knows about itself beside its tensors: travels in checkpoints and shows in status.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from stego_dist.engine.selection import Selected


@dataclass
class RunState:
    """Counters and findings after `step` steps."""

    step: int = 0
    skipped: int = 0
    """Steps left out because something was not finite."""
    validated: int = 0
    """Step of the last finished validation."""
    selected: Selected | None = None
    """The best validation, where train.select asks for it."""
    warnings: dict[str, str] = field(default_factory=dict)
    """What the run was warned of, by kind of collapse ("codes", "cluster")."""

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        return asdict(self)

    @classmethod
    def from_json(cls, step: int, values: Mapping[str, Any]) -> RunState:
        """The reverse."""
        selected = values["selected"]
        return cls(
            step=step,
            skipped=values["skipped"],
            validated=values["validated"],
            selected=Selected(**selected) if selected else None,
            warnings=dict(values["warnings"]),
        )
