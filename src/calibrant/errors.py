"""Every error a user can meet, in one tree.

::

    CalibrantError                 three parts: what was asked, what was found, what to do
    ├── QuestionError  (ValueError)   a question or a file of questions is not usable
    │   └── LeakageError              the same question is in two splits, or twice in one
    ├── ScoresError    (ValueError)   scores that are not a distribution over the options, or a damaged file
    ├── ConfigError    (ValueError)   a setting that does not exist or has no meaning
    ├── ModelError     (ValueError)   a model or tokenizer that cannot do what was asked
    ├── MissingExtraError (ImportError)  an optional dependency is not installed
    └── OutputError    (OSError)      the result could not be written

A failed ``assert`` anywhere in the package is our fault, never the user's.
"""

import numbers


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
    """The same question is in two splits, or twice in one."""


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


def only(kind: type | tuple[type, ...], given: object, asked: str, todo: str) -> None:
    """Raise :class:`ConfigError` where an argument is of another kind, such as a path in the place of what is loaded from it.

    >>> only(dict, "q.jsonl", "splits of questions", "load them")
    Traceback (most recent call last):
        ...
    calibrant.errors.ConfigError: asked: splits of questions
    found: str 'q.jsonl'
    to do: load them
    """
    if not isinstance(given, kind):
        raise ConfigError(asked=asked, found=f"{type(given).__name__} {str(given)[:80]!r}", todo=todo)


def only_numbers(*, whole: bool = False, **given: object) -> None:
    """Raise :class:`ConfigError` for an argument that is no number, such as a text or a truth value; numpy's numbers are some,
    and ``None``, which stands for a default, passes.

    >>> only_numbers(level=0.95)
    >>> only_numbers(whole=True, n_boot="100")
    Traceback (most recent call last):
        ...
    calibrant.errors.ConfigError: asked: n_boot, a whole number
    found: str '100'
    to do: give a number, without quotes
    """
    for name, value in given.items():
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, numbers.Integral if whole else numbers.Real)
        ):
            raise ConfigError(
                asked=f"{name}, a {'whole ' if whole else ''}number",
                found=f"{type(value).__name__} {str(value)[:80]!r}",
                todo="give a number, without quotes",
            )


def one_line(error: BaseException) -> str:
    r"""The text of an error of another library in one line, cut where it goes on and on; its kind where it has none.

    >>> one_line(ValueError("two\n  lines")), one_line(KeyError())
    ('two lines', 'KeyError')
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else text[:400] + " …"


FULL = ("out of memory", "STATUS_ALLOC_FAILED", "DefaultCPUAllocator")
"""What torch and the libraries under it write when memory is full."""


REFUSALS = (AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What models and libraries raise where an architecture cannot be computed in the way that was asked, and memory that is full
beside it (:func:`memory_full`). Caught only where another way is taken, or where it ends in three parts.
"""


def memory_full(error: BaseException, asked: str) -> ModelError | None:
    """An error as one of ours where it says that memory is full, else ``None``.

    Python and numpy have an error of their own for it; torch raises one of its own kind for what it allocates on a GPU, and a
    plain ``RuntimeError`` for what cuBLAS and cuDNN allocate there and for the CPU.

    >>> print(memory_full(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "tuning"))
    asked: tuning
    found: memory is full (CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`)
    to do: lower micro_batch_size or batch_tokens, or set gradient_checkpointing, and see what else takes it; then run again
    >>> memory_full(RuntimeError("shapes do not match"), "tuning") is None
    True
    """
    if not isinstance(error, MemoryError) and not (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in FULL)
    ):
        return None
    plain = "use fewer draws, bins or questions" if isinstance(error, MemoryError) else None
    return ModelError(
        asked=asked,
        found=f"memory is full ({(str(error) or type(error).__name__).splitlines()[0]})",
        todo=f"{plain or 'lower micro_batch_size or batch_tokens, or set gradient_checkpointing'}, and see what else takes "
        "it; then run again",
    )
