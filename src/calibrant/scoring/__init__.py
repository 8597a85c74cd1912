"""Models and questions in, ``Scores`` out. Needs torch."""

from calibrant.scoring.models import LoadedModel, load_model
from calibrant.scoring.run import score

__all__ = ["LoadedModel", "load_model", "score"]
