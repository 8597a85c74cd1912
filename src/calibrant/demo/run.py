"""The demo: the main job on the embedded default."""

from __future__ import annotations

from pathlib import Path

from calibrant.demo.model import demo_model_path
from calibrant.demo.worldknowledge import OUT_OF_DOMAIN, demo_questions
from calibrant.prompts import PromptStyle
from calibrant.restoring import Restored, restore
from calibrant.tuning import TuneConfig

STYLE = PromptStyle(reading="continuation", variant="sum")
# Chosen on calibration questions alone: docs/log.md.
CONFIG = TuneConfig(objective="cft", epochs=1, batch_size=16, learning_rate=3e-4)
CALIBRATION = 250
CLUSTER = "entity"
"""Intervals resample whole countries, states and elements: questions on one are alike."""


def demo(*, out: str | Path, seed: int = 0, progress: bool = False, command: str | None = None) -> Restored:
    """Restore SmolLM2-135M-Instruct on world knowledge; US counties and chemistry are out of domain. See docs/demo.md.

    Raises
    ------
    MissingExtraError : the extra ``[demo]`` is not installed.
    """
    questions = demo_questions(calibration=CALIBRATION)
    return restore(
        demo_model_path(),
        {name: questions[name] for name in ("train", "calibration", "test")},
        ood={name: questions[name] for name in OUT_OF_DOMAIN},
        out=out,
        config=CONFIG.model_copy(update={"seed": seed}),
        style=STYLE,
        progress=progress,
        command=command,
        cluster=CLUSTER,
    )
