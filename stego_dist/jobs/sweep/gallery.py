"""The same few evaluation images as the best trials segment them, for the sweep's page."""

from __future__ import annotations

from collections.abc import Iterable

from stego_dist import console
from stego_dist.config import load_config
from stego_dist.engine.opened import Opened
from stego_dist.engine.setup import make_accelerator
from stego_dist.engine.validate import Validation, Validator
from stego_dist.errors import UserError
from stego_dist.jobs.sweep.plan import Folder
from stego_dist.models.segmenter import Segmenter


def validate_again(folder: Folder, trials: Iterable[int]) -> dict[int, Validation]:
    """Validations of finished trials, with train.panels images each; what can't be read is left out, with a warning."""
    found: dict[int, Validation] = {}
    validator: Validator | None = None
    for n in trials:
        try:
            config = load_config(folder.config(n))
            segmenter = Segmenter.load(folder.run(n).model)[0]
            made_for = validator.config if validator is not None else None
            if made_for is None or any(
                getattr(made_for, part) != getattr(config, part) for part in ("data", "backbone", "eval")
            ):
                accelerator = make_accelerator(config.train.precision, config.train.timeout_minutes)
                validator = Validator(config, accelerator, segmenter, Opened(config, accelerator.device))
            assert validator is not None
            validator.segmenter = segmenter.to(validator.accelerator.device)
            found[n] = validator()
        except (UserError, OSError) as error:
            console.warn(f"no pictures of trial {n}: {error}")
    return found
