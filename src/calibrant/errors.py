"""Every error a user can meet, in one tree.

::

    CalibrantError                 three parts: what was asked, what was found, what to do
    ├── QuestionError  (ValueError)   a question or a file of questions is not usable
    │   └── LeakageError              the same question stands in two splits, or twice in one
    ├── ScoresError    (ValueError)   scores that are not a distribution over the options, or a damaged file
    ├── ConfigError    (ValueError)   a setting that does not exist or has no meaning
    ├── ModelError     (ValueError)   a model or tokenizer that cannot do what was asked
    ├── MissingExtraError (ImportError)  an optional dependency is not installed
    └── OutputError    (OSError)      the result could not be written

A failed ``assert`` anywhere in the package is our fault, never the user's.
"""


class CalibrantError(Exception):
    """Base of all errors of this package; catch this one to catch them all.

    Parameters
    ----------
    asked : what the caller wanted.
    found : what is there instead, with the place (file, line, row).
    todo : what the caller can do about it.
    """

    def __init__(self, *, asked: str, found: str, todo: str) -> None:
        self.asked, self.found, self.todo = asked, found, todo
        super().__init__(f"asked: {asked}\nfound: {found}\nto do: {todo}")


class QuestionError(CalibrantError, ValueError):
    """A question, or a file of questions, is not usable."""


class LeakageError(QuestionError):
    """The same question stands in two splits, or twice in one."""


class ScoresError(CalibrantError, ValueError):
    """Scores that are not a distribution over the options, or a damaged file."""


class ConfigError(CalibrantError, ValueError):
    """A setting that does not exist or has no meaning."""


class ModelError(CalibrantError, ValueError):
    """A model or tokenizer that cannot do what was asked."""


class MissingExtraError(CalibrantError, ImportError):
    """An optional dependency is not installed; ``todo`` names the exact install command."""


class OutputError(CalibrantError, OSError):
    """The result could not be written."""
