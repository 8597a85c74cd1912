"""The embedded default: a small aligned model and questions on which it is overconfident."""

from calibrant.demo.model import demo_model_path
from calibrant.demo.worldknowledge import demo_questions

__all__ = ["demo_model_path", "demo_questions"]
