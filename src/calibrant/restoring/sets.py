"""The sets of questions of a run: put together, and checked before anything is spent on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from calibrant.errors import ConfigError, QuestionError
from calibrant.questions import QuestionSet, drop_leaked, split_questions

SHARES = {"train": 0.6, "calibration": 0.2, "test": 0.2}
SPLITS = tuple(SHARES)


def assemble(
    questions: QuestionSet,
    *,
    test: QuestionSet | None = None,
    calibration: QuestionSet | None = None,
    ood: Mapping[str, QuestionSet] | None = None,
    seed: int = 0,
    drop: bool = False,
    group: str | None = None,
) -> tuple[dict[str, QuestionSet], dict[str, QuestionSet]]:
    """The splits and out-of-domain sets that :func:`restore` takes, from what is at hand.

    What is not given is held out of ``questions``: a fifth each for calibration and test, three fifths to train, in these
    proportions. With ``drop``, a question that stands in two sets stays in the first of test, out-of-domain sets,
    calibration, training, and the others list it as skipped; without, :func:`restore` refuses it. Questions of one
    ``group`` (a column, or ``"subject"``) are held out together, so that the sizes are approximate.
    """
    ood = dict(ood or {})
    given = {name: q for name, q in (("test", test), *ood.items(), ("calibration", calibration)) if q is not None}
    if drop:
        for name in given:
            for earlier in given:
                if earlier == name:
                    break
                given[name] = drop_leaked(given[earlier], given[name])
        for kept in given.values():
            questions = drop_leaked(kept, questions)
    wanted = {name: share for name, share in SHARES.items() if name not in given}
    share = {name: wanted.get(name, 0.0) / sum(wanted.values()) for name in SHARES}
    parts = split_questions(
        questions,
        train=share["train"],
        calibration=share["calibration"],
        test=share["test"],
        seed=seed,
        group=group if len(wanted) > 1 else None,
    )
    splits = {name: given.get(name, parts[name]) for name in SPLITS}
    splits["train"] = replace(splits["train"], skipped=questions.skipped)
    return splits, {name: given[name] for name in ood}


def check_splits(splits: Mapping[str, QuestionSet], ood: Mapping[str, QuestionSet]) -> None:
    """Each split has questions, what is measured two or more, and no out-of-domain set has a split's name."""
    missing = [name for name in SPLITS if not splits.get(name)]
    if missing:
        raise QuestionError(
            asked=f"questions to {', '.join(SPLITS)}",
            found=f"none for {', '.join(missing)}",
            todo="give each split at least one question; split_questions makes three of one set",
        )
    measured = {name: q for name, q in {**splits, **ood}.items() if name != "train"}
    few = [name for name, questions in measured.items() if len(questions) < 2]
    if few:
        raise QuestionError(
            asked=f"questions to {', '.join(measured)}",
            found=f"fewer than two for {', '.join(few)}",
            todo="give each at least two; a few hundred are needed to tell anything",
        )
    clash = [name for name in ood if name in SPLITS]
    if clash:
        raise ConfigError(
            asked=f"out-of-domain sets named {', '.join(ood)}",
            found=f"{', '.join(clash)} is the name of a split",
            todo="give them names of their own",
        )
