"""What a tuning run that was broken off left behind: its last whole checkpoint, and whether anything is left to train."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback
from transformers.trainer import TRAINER_STATE_NAME

from calibrant.errors import OutputError
from calibrant.tuning.trainer import EmState


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: the trainer writes its state file last. ``state`` is its content."""

    path: Path
    state: dict[str, Any]

    @classmethod
    def last(cls, folder: Path) -> Checkpoint | None:
        """The newest whole one in a run's folder of checkpoints; what was broken off while it was written is removed."""
        whole = []
        for path in folder.glob("checkpoint-*"):
            try:
                state = json.loads((path / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
                whole.append((state["global_step"], cls(path, state)))
            except (OSError, ValueError, KeyError):
                shutil.rmtree(path, ignore_errors=True)
        return max(whole, key=lambda found: found[0])[1] if whole else None

    @property
    def ended(self) -> bool:
        """Whether no step was to follow: the last one was done, or held-out log loss no longer fell."""
        control = self.state["stateful_callbacks"].get("TrainerControl", {"args": {}})["args"]
        return self.state["global_step"] >= self.state["max_steps"] or bool(control.get("should_training_stop"))

    @property
    def best(self) -> Path:
        """The checkpoint with the least held-out log loss so far, beside this one: the folder may have been moved.

        Raises
        ------
        OutputError : it is gone.
        """
        path = self.path.with_name(f"checkpoint-{self.state['best_global_step']}")
        if not path.is_dir():
            raise OutputError(
                asked=f"go on with the tuning run in {self.path.parent.parent}",
                found=f"no {path.name}, whose weights are the best so far",
                todo="put it back, or delete the run's folder and start again",
            )
        return path

    def em_state(self) -> EmState:
        """The E-step in force, the path and the time so far."""
        return EmState.from_state(self.state["stateful_callbacks"]["EmState"])

    def early_stopping(self, patience: int) -> EarlyStoppingCallback:
        """With the evaluations without a better NLL that were counted so far."""
        callback = EarlyStoppingCallback(early_stopping_patience=patience)
        kept = self.state["stateful_callbacks"].get("EarlyStoppingCallback")
        if kept is not None:
            callback.early_stopping_patience_counter = kept["attributes"]["early_stopping_patience_counter"]
        return callback
