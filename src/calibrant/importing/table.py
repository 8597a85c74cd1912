"""``import_table``: a table of option probabilities in, ``Scores`` out."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from calibrant.errors import ScoresError
from calibrant.importing.content import content_of
from calibrant.importing.lists import Rows, list_column, names_of, spread
from calibrant.importing.rows import rows_of
from calibrant.questions import did_you_mean, folded, shown
from calibrant.scores import SUM_TOLERANCE, Scores
from calibrant.sources import missing, numeral
from calibrant.sources.cells import blank, typed
from calibrant.sources.readers import is_text_table

OPTION_COLUMN = re.compile(r"(p|prob|probability|logp|logprob)_?([a-z]|\d{1,2})", re.IGNORECASE)
WANTED = "p_0, p_1, …; p_a, p_b, …; prob_A, prob_B, …; A, B, …; or natural logarithms as logp_0, logp_1, …"


def import_table(
    table: str | Path | Mapping[str, Any] | Iterable[Mapping[str, Any]],
    *,
    answer: str = "answer",
    probabilities: str | Sequence[str] | None = None,
    id: str | None = None,
    subject: str | None = None,
    split: str = "",
) -> Scores:
    """Scores from a table with a row a question and a column an option.

    Parameters
    ----------
    table : a file (.csv, .tsv, .parquet, .jsonl, .json; text also with .gz), a mapping of column name to values, a data frame
        of pandas, polars or pyarrow (an index that has a name is a column), or a list of mappings, one a question.
    answer : the column of the correct option: a 0-based index, a letter, or the name of the option's column.
    probabilities : the columns of the options in order, or the one column that holds a list of them; by default those named
        ``p_0``, ``p_1``, … (or ``p_a``, ``prob_A``, ``logp_0``, …), else a column of lists named ``probs``,
        ``probabilities``, ``logprobs`` or the like, or of mappings by letter, ``{"A": 0.7, "B": 0.3}``
        (``top_logprobs`` too), else ``A``, ``B``, …. Names that begin with ``logp`` hold natural
        logarithms, which are normalised over the options; probabilities must sum to 1 within 1e-3, or as nearly as
        rounding to two digits or more explains: such rows are divided by their sum and counted in
        ``provenance["rows_rounded"]``. A blank cell (nan in a mapping, a data frame or a list), or a shorter list, is an option
        that the question has not.
    id, subject : columns of the questions' ids and subjects, by default ``id`` and ``subject`` where there are such;
        else the ids are 0, 1, …
    split : name that the scores will carry.

    Returns
    -------
    Scores : further columns are kept (of .csv and .tsv a blank cell as ``None``, a column of numbers as numbers), a column
        ``logmass`` as :attr:`Scores.logmass_N`; hashes are those of our own questions where the table also holds question
        and options, else ``""``.

    Raises
    ------
    ScoresError : no such file or columns, cells that are not numbers, rows that are not a distribution, an answer that fits no
        option or seems to count from 1, ids that repeat.

    >>> table = {"p_a": [0.7, 0.5], "p_b": [0.2, 0.5], "p_c": [0.1, float("nan")], "answer": ["A", "b"]}
    >>> s = import_table(table)
    >>> s.k_N.tolist(), s.answer_N.tolist(), s.confidence_N.round(2).tolist()
    ([3, 2], [0, 1], [0.7, 0.5])
    """
    title, rows = rows_of(table)
    asked = f"scores from {title}"
    rows, names = _options(rows, probabilities, asked)
    columns = names_of(rows)
    for key, column in [("answer", answer), *(("probabilities", n) for n in names), ("id", id), ("subject", subject)]:
        if column is not None and column not in columns:
            named = "[FIRST, SECOND]" if key == "probabilities" else "NAME"
            raise ScoresError(
                asked=f"column {column!r} of {title}",
                found=f"columns {', '.join(columns)}{did_you_mean(column, columns)}",
                todo=f"name one that is there: {key}=…, on the command line --columns '{key}: {named}'",
            )
    blank_is_nan = not isinstance(table, (str, Path))
    p = [[_cell(where, row, column, blank_is_nan) for column in names] for where, row in rows]
    k_N = [sum(not np.isnan(x) for x in row) for row in p]
    few = [(where, k) for (where, _), k in zip(rows, k_N, strict=True) if k < 2]
    if few:
        raise ScoresError(
            asked=f"{asked}: at least two options a question",
            found=f"{few[0][1]} in {few[0][0]}" + (f" and fewer than two in {len(few) - 1} more" if few[1:] else ""),
            todo="write their probabilities, or leave such rows out",
        )
    id = id or ("id" if "id" in columns else None)
    subject = subject or ("subject" if "subject" in columns else None)
    kept = typed if isinstance(table, (str, Path)) and is_text_table(Path(table)) else list
    used = {answer, id, subject, "logmass", *names}
    facts: dict[str, Any] = {
        "ids": None if id is None else _ids([(where, row.get(id)) for where, row in rows], asked),
        "subjects": None if subject is None else [_subject(row.get(subject)) for _, row in rows],
        "columns": {name: kept([_plain(row.get(name)) for _, row in rows]) for name in columns if name not in used},
        "split": split,
        "provenance": {"source": "table", "file": title, "columns": names},
    }
    logarithms = all(column.lower().removeprefix("top_").startswith("logp") for column in names)
    rounded = 0
    for i, ((where, row), p_K) in enumerate(zip(rows, p, strict=True)):
        cells = [None if np.isnan(x) else row.get(name) for name, x in zip(names, p_K, strict=True)]
        _refuse_no_distribution(f"{asked}: {where}", cells, p_K, logarithms=logarithms)
        if not logarithms and abs((total := float(np.nansum(p_K))) - 1) > SUM_TOLERANCE:
            p[i], rounded = [x / total for x in p_K], rounded + 1
    if rounded:
        facts["provenance"]["rows_rounded"] = rounded
    answers = _answers([(where, row.get(answer)) for where, row in rows], k_N, names, asked)
    scores = (Scores.from_logp if logarithms else Scores.from_probs)(p, answers, **facts)
    if "logmass" in columns:
        mass = [_cell(where, row, "logmass", blank_is_nan) for where, row in rows]
        scores = replace(scores, logmass_N=np.array(mass))
    texts = [
        {n: v for n, v in row.items() if n not in {*names, "logmass"}} | {"answer": row.get(answer)} for _, row in rows
    ]
    hashes = [content_of(row, k).hash for row, k in zip(texts, k_N, strict=True)]
    return replace(scores, hashes=_told_apart(hashes, facts["columns"]))


def _told_apart(hashes: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> tuple[str, ...]:
    """The content hashes, without those of rows that share question and options and differ in another text.

    As in a table of reviews that are all asked the same: what is asked about stands in a column that no layout knows, so the
    hash would call them one question.
    """
    texts: dict[str, set[tuple[str, ...]]] = {}
    for i, hash in enumerate(hashes):
        texts.setdefault(hash, set()).add(tuple(folded(c[i]) for c in columns.values() if isinstance(c[i], str)))
    return tuple("" if len(texts[hash]) > 1 else hash for hash in hashes)


def _options(rows: Rows, probabilities: str | Sequence[str] | None, asked: str) -> tuple[Rows, list[str]]:
    """The rows with a column an option, and the names of these columns."""
    if isinstance(probabilities, str):
        return spread(rows, probabilities, asked)
    if probabilities is not None:
        return rows, _named(probabilities)
    columns, column = names_of(rows), list_column(rows)
    whole = _families(columns)
    if not whole and (column is not None or not any(map(OPTION_COLUMN.fullmatch, columns))):
        whole = _whole({("", True): {ord(name) - ord("A"): name for name in columns if re.fullmatch("[A-Z]", name)}})
        if column is not None and not any(_is_number(rows[0][1].get(name)) for names in whole for name in names):
            return spread(rows, column, asked)  # beside it the letters hold texts
        whole += [] if column is None else [[column]]
    if len(whole) != 1:
        raise ScoresError(
            asked=f"{asked}: one column of probabilities an option",
            found=f"columns {', '.join(columns)}" + (" (several sets of options)" if whole else ""),
            todo=f"name them {WANTED}; or say which they are with probabilities=['first', 'second'], or 'name' for one that "
            "holds lists, on the command line --columns 'probabilities: [first, second]'" + _alone(rows),
        )
    return rows, whole[0]


def _families(columns: Sequence[str]) -> list[list[str]]:
    """Option columns that have a prefix in common: each family that is whole, in the order of its options."""
    families: dict[tuple[str, bool], dict[int, str]] = {}
    for column in columns:
        if match := OPTION_COLUMN.fullmatch(column):
            place = ord(match[2].lower()) - ord("a") if match[2].isalpha() else int(match[2])
            families.setdefault((match[1].lower(), match[2].isalpha()), {})[place] = column
    return _whole(families)


def _whole(families: Mapping[tuple[str, bool], Mapping[int, str]]) -> list[list[str]]:
    """Those of two columns or more, with letters from a or numbers from 0 or 1, without a gap."""
    return [
        [by_place[place] for place in sorted(by_place)]
        for (_, lettered), by_place in families.items()
        if len(by_place) >= 2
        and min(by_place) <= (0 if lettered else 1)
        and max(by_place) - min(by_place) == len(by_place) - 1
    ]


def _alone(rows: Rows) -> str:
    """What can be done with confidences alone, where that is what a table has, and with logits."""
    columns = names_of(rows)
    if any(re.search("logit", column, re.IGNORECASE) for column in columns):
        return "; logits must go through a softmax first"
    named = [column for column in columns if re.search("conf|prob", column, re.IGNORECASE)]
    if not any(_is_number(row.get(column)) for column in named for _, row in rows):
        return ""
    return (
        "; the confidence of one answer alone makes no scores: in Python calibrant.metrics has conf_ece, smooth_ece, auroc, "
        "threshold_for and others that take confidences and whether they were right"
    )


def _cell(where: str, row: Mapping[str, Any], column: str, blank_is_nan: bool) -> float:
    """A number; nan for a blank cell and for pandas' NA."""
    value = row.get(column)
    if blank(value) or (missing(value) and not isinstance(value, float | np.floating)):
        return float("nan")
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = float("nan")
        blank_is_nan = False
    if np.isnan(number) and not blank_is_nan:
        raise ScoresError(
            asked=f"a number in column {column!r}",
            found=f"{value!r} in {where}",
            todo="write a number, or leave the cell blank where the question has no such option"
            + ("; divide percentages by 100" if "%" in str(value) else ""),
        )
    return number


def _refuse_no_distribution(asked: str, cells: Sequence[Any], p_K: Sequence[float], *, logarithms: bool) -> None:
    """Refuse a row with a gap between its options, or whose probabilities are none or do not sum to 1."""
    known = [x for x in p_K if not np.isnan(x)]
    fault = None
    if logarithms and max(known) == -np.inf:
        fault = "no option with a probability above 0", "give one option or more a finite logarithm"
    elif logarithms and any(x > 1e-3 for x in known):
        fault = "a logarithm of a probability above 0", "give natural logarithms of probabilities, which are 0 at most"
    elif any(np.isnan(x) for x in p_K[: len(known)]):
        fault = "a blank cell before the last option", "fill it, or move the later options up"
    elif not logarithms and not all(-1e-6 <= x <= 1 + 1e-6 for x in known):
        fault = (
            "a number outside [0, 1]",
            "give probabilities (percentages divided by 100, logits after a softmax), or natural logarithms in columns named "
            "logp_0, logp_1, …",
        )
    elif not logarithms and abs(sum(known) - 1) > max(SUM_TOLERANCE, _rounding(cells)):
        todo = (
            "give probabilities that sum to 1 (divide each by their sum where they were rounded), or leave the row out"
        )
        fault = f"a sum of {sum(known):.6g}", todo
    if fault:
        raise ScoresError(
            asked=asked, found=f"{fault[0]}: {', '.join('blank' if blank(c) else str(c) for c in cells)}", todo=fault[1]
        )


def _rounding(cells: Sequence[Any]) -> float:
    """How far a sum may be from 1 because its terms were rounded: K times half of the last digit, from two digits on. Six
    digits are looked at, what a float32 keeps of two.
    """
    texts = [f"{float(cell):.6f}".rstrip("0") for cell in cells if not blank(cell)]
    digits = max((len(text.partition(".")[2]) for text in texts), default=0)
    return 0.5 * 10.0**-digits * len(texts) + 1e-9 if digits >= 2 else 0.0


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _named(probabilities: Any) -> list[str]:
    good = isinstance(probabilities, Sequence) and all(isinstance(name, str) for name in probabilities)
    if not good or len(probabilities) < 2:
        raise ScoresError(
            asked="the columns of the options",
            found=f"{probabilities!r}",
            todo="give a list of two column names or more, in the order of the options",
        )
    return list(probabilities)


def _ids(cells: Sequence[tuple[str, Any]], asked: str) -> list[str]:
    """Ids by their cells; a blank one is the row's number, from 0."""
    ids = [str(i) if blank(value) or missing(value) else str(value) for i, (_, value) in enumerate(cells)]
    first: dict[str, str] = {}
    repeats = [
        f"{name!r} in {first[name]} and {where}"
        for name, (where, _) in zip(ids, cells, strict=True)
        if first.setdefault(name, where) != where
    ]
    if repeats:
        raise ScoresError(asked=f"{asked}: ids, each once", found=shown(repeats), todo="give each question its own id")
    return ids


def _plain(value: Any) -> Any:
    """A value that JSON can hold; dates and the like by their text, nan as nothing."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if missing(value) else json.loads(json.dumps(value, default=str))


def _subject(value: Any) -> str | None:
    return None if value is None or missing(value) or value == "" else str(value)


def _answers(cells: Sequence[tuple[str, Any]], k_N: Sequence[int], names: Sequence[str], asked: str) -> list[int]:
    answers, named = [], _endings(names)
    for where, value in cells:
        text = str(value).strip().upper()
        number = numeral(value)
        if number is None:
            number = named.get(str(value).strip(), named.get(text))
        if number is None and len(text) == 1 and text.isascii() and text.isalpha():
            number = ord(text) - ord("A")
        if number is None:
            raise ScoresError(
                asked=f"{asked}: the correct option in {where}",
                found=f"{value!r}",
                todo="give a 0-based index, a letter, or the name of the option's column",
            )
        answers.append(number)
    _refuse_from_one([numeral(value) for _, value in cells], k_N, names, asked)
    for (where, value), k, number in zip(cells, k_N, answers, strict=True):
        if not 0 <= number < k:
            raise ScoresError(
                asked=f"{asked}: the correct option in {where}",
                found=f"answer {value!r} for {k} options",
                todo=f"give an index from 0 to {k - 1} or a letter",
            )
    return answers


def _endings(names: Sequence[str]) -> dict[str, int]:
    """Places of the options by their columns' names, p_yes, p_no, and yes, no where all begin alike; in capitals too, but where
    names differ in case alone.
    """
    found = {name: place for place, name in enumerate(names)}
    if len({name.partition("_")[0] for name in names}) == 1:
        found |= {name.partition("_")[2]: place for place, name in enumerate(names)}
    capitals = Counter(name.upper() for name in found)
    return {name.upper(): place for name, place in found.items() if capitals[name.upper()] == 1} | found


def _refuse_from_one(numbers: Sequence[int | None], k_N: Sequence[int], names: Sequence[str], asked: str) -> None:
    """Answers that seem to count from 1: none is 0, and one is the number of options or the columns count from 1."""
    given = [number for number in numbers if number is not None]
    tops = sum(number == k for number, k in zip(numbers, k_N, strict=True))
    from_one = bool(re.search(r"\D1$", names[0]))
    if given and 0 not in given and (tops or from_one):
        raise ScoresError(
            asked=f"{asked}: answers counted from 0",
            found=f"no answer is 0, {tops} equal the number of options, and the first column is {names[0]!r}",
            todo="subtract 1 from the answers if they count from 1, or give letters",
        )
