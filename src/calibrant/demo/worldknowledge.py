"""The demo's questions: facts of data packages as multiple choice, split by entity.

An entity (a country, a US state) belongs to one split across all subjects, and the distractors of a question come from
the entities of its own split. Else a tuned model would know some options from training and rule them out. Two sets are in
none of the three splits: US counties, of states that are not trained on, out of domain but near it, and chemistry, far
from it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

from calibrant.demo.facts import Fact, all_facts, fold
from calibrant.errors import ConfigError, only_numbers
from calibrant.questions import Question, QuestionSet

TEMPLATES = {
    "capital": "What is the capital of {}?",
    "country": "Which country or territory has {} as its capital?",
    "continent": "On which continent is {}?",
    "city": "In which country or territory is the city of {}?",
    "us state": "In which US state is the city of {}?",
    "us county": "In which US state is {}?",
    "symbol": "What is the chemical symbol of {}?",
    "element": "Which chemical element has the symbol {}?",
    "atomic number": "What is the atomic number of {}?",
}
OUT_OF_DOMAIN = {"us counties": ("us county",), "chemistry": ("symbol", "element", "atomic number")}
BLOCK = ("test", "train", "calibration", "test", "train", "test")  # the splits of six entities of about one size
SPLITS = ("train", "calibration", "test")
OPTIONS = 4
STEM = 4
SMALL_WORDS = {"the", "and"}


def demo_questions(
    *,
    train: int | None = None,
    calibration: int | None = None,
    test: int | None = None,
    ood: int | None = None,
) -> dict[str, QuestionSet]:
    """World-knowledge questions: ``train``, ``calibration``, ``test``, and out of domain ``us counties`` and ``chemistry``.

    The same on every machine for the same versions of the data packages: all choices are made by SHA-256.

    Parameters
    ----------
    train, calibration, test, ood : take at most that many questions of the split (``ood``: of each set that is out of
        domain), subjects in proportion; default all.

    Raises
    ------
    ConfigError : a negative limit.
    MissingExtraError : a data package of the extra ``demo`` is not installed.
    """
    limits = {"train": train, "calibration": calibration, "test": test, "ood": ood}
    only_numbers(whole=True, **limits)
    for name, limit in limits.items():
        if limit is not None and limit < 0:
            raise ConfigError(asked=f"{limit} questions for {name}", found="a negative number", todo="give 0 or more")
    outside = {subject: name for name, subjects in OUT_OF_DOMAIN.items() for subject in subjects}
    facts: dict[str, list[Fact]] = {name: [] for name in (*SPLITS, *OUT_OF_DOMAIN)}
    split_of = _split_of_entity(fact for fact in all_facts() if fact.subject not in outside)
    for fact in all_facts():
        name = outside.get(fact.subject) or split_of[fact.entity]
        if name in SPLITS or split_of.get(fact.entity) != "train":
            facts[name].append(fact)
    most = {**limits, **dict.fromkeys(OUT_OF_DOMAIN, ood)}
    return {
        name: QuestionSet(name, tuple(_mixed(_questions(facts[name]))[: most[name]]))  # [:None] is everything
        for name in facts
    }


def gives_away(question: str, option: str) -> bool:
    """Whether a word of the option stands in the question, whole or by its first letters.

    >>> gives_away("What is the capital of Mexico?", "Mexico City"), gives_away("On which continent is Mali?", "Africa")
    (True, False)
    """
    return not _stems(question).isdisjoint(_stems(option))


def _stems(text: str) -> set[str]:
    return {word[:STEM] for word in re.findall(r"\w+", fold(text)) if len(word) > 2 and word not in SMALL_WORDS}


def _rank(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _split_of_entity(facts: Iterable[Fact]) -> dict[str, str]:
    """Of six entities of one group (continent) and about one size, three go to test, two to train, one to calibration.

    So that each split has its share of the well known ones. Within the six, hashes decide.
    """
    groups: dict[str, dict[str, None]] = {}  # dict as a set that keeps the order
    for fact in facts:
        groups.setdefault(fact.group, {})[fact.entity] = None
    split_of: dict[str, str] = {}
    for entities in map(list, groups.values()):
        for start in range(0, len(entities), len(BLOCK)):
            block = sorted(entities[start : start + len(BLOCK)], key=lambda entity: _rank("split", entity))
            split_of.update(zip(block, BLOCK, strict=False))
    return split_of


def _questions(facts: list[Fact]) -> Iterator[Question]:
    """One question a fact, where enough distractors of the same kind exist and nothing is given away."""
    pools: dict[str, set[tuple[str, str]]] = {}
    for fact in facts:
        pools.setdefault(fact.subject, set()).add((fact.group, fact.answer))
    for fact in facts:
        name = f"{fact.subject}: {fact.about}"
        text = TEMPLATES[fact.subject].format(fact.about)
        if gives_away(text, fact.answer):
            continue
        pool = sorted(pools[fact.subject], key=lambda item: (item[0] != fact.group, _rank(name, item[1])))
        choices = _choices(text, fact.answer, [answer for _, answer in pool])
        if len(choices) < OPTIONS:
            continue
        choices.sort(key=lambda choice: _rank("order", name, choice))
        yield Question(
            id=name,
            text=text,
            choices=tuple(choices),
            answer=choices.index(fact.answer),
            subject=fact.subject,
            columns={"entity": fact.entity, "group": fact.group},
        )


def _choices(text: str, answer: str, candidates: Iterable[str]) -> list[str]:
    """The answer and the first candidates that are not a prefix of another option and are not named by the question."""
    choices = [answer]
    for candidate in candidates:
        clash = any(fold(a).startswith(fold(b)) for c in choices for a, b in ((c, candidate), (candidate, c)))
        if len(choices) < OPTIONS and not clash and not gives_away(text, candidate):
            choices.append(candidate)
    return choices


def _mixed(questions: Iterable[Question]) -> list[Question]:
    """The questions in an order in which every beginning holds each subject in its proportion."""
    subjects: dict[str, list[Question]] = {}
    for question in questions:
        subjects.setdefault(question.subject or "", []).append(question)
    placed = []
    for members in subjects.values():
        members.sort(key=lambda question: _rank("mix", question.id))
        placed += [((i + 0.5) / len(members), question.id, question) for i, question in enumerate(members)]
    return [question for _, _, question in sorted(placed, key=lambda item: item[:2])]
