"""The sets of questions of a run: put together, and checked before anything is spent on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from calibrant.errors import ConfigError, QuestionError, only
from calibrant.questions import (
    SPLIT_NAMES,
    Question,
    QuestionSet,
    drop_leaked,
    groups_of,
    question_set,
    refuse_leakage,
    split_questions,
)

MADE_BY = {"train": "training", "calibration": "calibration"}
"""Splits that fixes are fitted on, and what they are called in messages."""
SETS_BY_NAME = {
    "splits": 'give {"train": …, "calibration": …, "test": …}, as calibrant.split_questions makes them of one set',
    "out-of-domain sets": 'give {"name": questions, …}',
}
SHARES = {"train": 0.6, "calibration": 0.2, "test": 0.2}


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
    proportions. With ``drop``, a question that is in two sets stays in the first of test, out-of-domain sets,
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
    splits = {name: given.get(name, parts[name]) for name in SPLIT_NAMES}
    splits["train"] = replace(splits["train"], skipped=questions.skipped)
    return splits, {name: given[name] for name in ood}


def checked_sets(
    splits: Mapping[str, Sequence[Question]], ood: Mapping[str, Sequence[Question]]
) -> tuple[dict[str, QuestionSet], dict[str, QuestionSet]]:
    """The three splits and the out-of-domain sets.

    Raises
    ------
    QuestionError : a split without questions, or fewer than two where something is measured; what is not a set of questions.
    ConfigError : no mapping of names to questions; a split of another name, or an out-of-domain set with a split's name.
    LeakageError : a question in two of them.
    """
    for found, name in ((splits, "splits"), (ood, "out-of-domain sets")):
        only(Mapping, found, f"{name} of questions, by name", SETS_BY_NAME[name])
    other = [name for name in splits if name not in SPLIT_NAMES]
    if other:
        raise ConfigError(
            asked=f"splits named {', '.join(map(str, splits))}",
            found=f"{', '.join(map(str, other))}, which nothing is done with",
            todo=f"name them {', '.join(SPLIT_NAMES)}; give further sets to be measured as ood",
        )
    clash = [name for name in ood if name in SPLIT_NAMES]
    if clash:
        raise ConfigError(
            asked=f"out-of-domain sets named {', '.join(ood)}",
            found=f"{', '.join(clash)} is the name of a split",
            todo="give them names of their own",
        )
    sets = {name: question_set(splits.get(name) or (), name) for name in SPLIT_NAMES}
    sets |= {name: question_set(questions, name) for name, questions in ood.items()}
    few = {name: len(q) for name, q in sets.items() if len(q) < (1 if name == "train" else 2)}
    if few:
        raise QuestionError(
            asked=f"questions to {', '.join(sets)}",
            found="; ".join(f"{n or 'none'} for {name}" for name, n in few.items()),
            todo="give each at least two, of which a few hundred tell something; split_questions makes three of one set",
        )
    refuse_leakage(**sets)
    return {name: sets[name] for name in SPLIT_NAMES}, {name: sets[name] for name in ood}


def shared_groups(sets: Mapping[str, QuestionSet], cluster: str | None) -> list[str]:
    """Sentences, one a test set of which some groups stand in the training or the calibration questions too."""
    if cluster is None:
        return []
    known = {name: set(map(str, groups_of(sets[name], cluster))) for name in MADE_BY}
    found = []
    for name, questions in sets.items():
        groups = set(map(str, groups_of(questions, cluster)))
        both = {word: len(groups & known[made]) for made, word in MADE_BY.items()}
        counts = [f"{n} in the {word} questions" for word, n in both.items() if n]
        if name not in MADE_BY and counts:
            found.append(
                f"Of the {len(groups)} groups of {name!r} (by {cluster}), {' and '.join(counts)} too: its numbers say less, or "
                "nothing, about other groups."
            )
    return found
