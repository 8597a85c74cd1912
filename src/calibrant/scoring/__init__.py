"""Models and questions in, ``Scores`` out. Needs torch."""

from calibrant.scoring.models import LoadedModel, load_model
from calibrant.scoring.run import score
from calibrant.scoring.sensitivity import score_formats, score_orders

__all__ = ["LoadedModel", "load_model", "score", "score_formats", "score_orders"]
