"""Measure, explain and restore the calibration of aligned language models.

The main job is :func:`restore`; each of its steps is a function of its own. What needs a model (``load_model``, ``score``,
``tune``, ``restore``) imports torch when it is first asked for; the rest needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from calibrant._version import __version__
from calibrant.errors import CalibrantError
from calibrant.intake import load_questions
from calibrant.metrics import compare, measure
from calibrant.prompts import PromptStyle
from calibrant.questions import Question, QuestionSet, split_questions
from calibrant.scalers import Temperature
from calibrant.scores import Scores

if TYPE_CHECKING:
    from calibrant.diagnosis import Diagnosis, diagnose
    from calibrant.reporting import report
    from calibrant.restoring import restore
    from calibrant.scoring import load_model, score
    from calibrant.tuning import TuneConfig, tune

__all__ = [
    "CalibrantError",
    "Diagnosis",
    "PromptStyle",
    "Question",
    "QuestionSet",
    "Scores",
    "Temperature",
    "TuneConfig",
    "__version__",
    "compare",
    "diagnose",
    "load_model",
    "load_questions",
    "measure",
    "report",
    "restore",
    "score",
    "split_questions",
    "tune",
]

_HEAVY = {
    "Diagnosis": "calibrant.diagnosis",
    "diagnose": "calibrant.diagnosis",
    "TuneConfig": "calibrant.tuning",
    "load_model": "calibrant.scoring",
    "report": "calibrant.reporting",
    "restore": "calibrant.restoring",
    "score": "calibrant.scoring",
    "tune": "calibrant.tuning",
}


def __getattr__(name: str) -> Any:
    if name in _HEAVY:
        return getattr(importlib.import_module(_HEAVY[name]), name)
    raise AttributeError(f"module 'calibrant' has no attribute {name!r}")
