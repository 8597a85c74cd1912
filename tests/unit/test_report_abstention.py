"""Answer or abstain, in the report: the numbers are those of the metrics, the picture shows them, the page says them."""

import json

import numpy as np
import pytest

from calibrant.errors import ConfigError
from calibrant.metrics import battery, threshold_for
from calibrant.reporting import Domain, report
from calibrant.reporting.abstention import abstention, promise
from calibrant.scores import Scores

BOOT = 100


def told_apart():
    """Right 96 of 100 times at .9 and every other time at .6; before, both are said with .97 and .93."""
    answer = ([0] * 96 + [1] * 4) * 3 + [0, 1] * 150
    after = Scores.from_probs([[0.9, 0.1]] * 300 + [[0.6, 0.4]] * 300, answer)
    before = Scores.from_probs([[0.97, 0.03]] * 300 + [[0.93, 0.07]] * 300, answer)
    return Domain("quiz", True, before, after)


def test_numbers_are_those_of_the_metrics_and_the_sentences_say_them():
    domain = told_apart()
    found = abstention(domain, 0.9, n_boot=BOOT, level=0.95, seed=0)
    for one, scores in ((found.before, domain.before), (found.after, domain.after)):
        assert one.decision == threshold_for(scores.confidence_N, scores.correct_N, 0.9)
        assert one.aurc == battery(scores, n_boot=BOOT)["aurc"]
    assert found.sentences[:2] == [
        "Before, answering where confidence is at least 0.97 keeps 50.0% of the questions, 96.0% of them right.",
        "After, answering where confidence is at least 0.9 keeps 50.0% of the questions, 96.0% of them right.",
    ]
    assert f"{found.after.aurc.value:.3f}" in found.sentences[2]


def test_the_promised_point_is_drawn_on_the_curve():
    domain = told_apart()
    ax = abstention(domain, 0.9, n_boot=BOOT, level=0.95, seed=0).plot()
    discs = [tuple(line.get_xydata()[0]) for line in ax.lines if line.get_marker() == "o"]
    assert discs == [(0.5, pytest.approx(0.04)), (0.5, pytest.approx(0.04))]
    assert "10% wrong" in [text.get_text() for text in ax.texts]


def test_where_nothing_can_be_promised_it_says_why_and_draws_no_disc():
    domain = Domain("quiz", True, Scores.from_probs([[0.9, 0.1]] * 200, [0, 1] * 100))
    found = abstention(domain, 0.9, n_boot=BOOT, level=0.95, seed=0)
    assert found.sentences[0].startswith(
        "No confidence is high enough to promise 90% right: accuracy of the 200 most confident is 0.500, its lower bound 0.4"
    )
    assert not [line for line in found.plot().lines if line.get_marker() == "o"]
    assert promise(found.before.decision, "after").startswith("After, no confidence")


def test_the_page_shows_it_and_the_target_can_be_another_or_none(tmp_path):
    domain = told_apart()
    for target, words in ((0.9, "at least 0.97 keeps"), (0.99, "promise 99% right"), (None, None)):
        out = tmp_path / str(target)
        html = report([domain], out=out, n_boot=BOOT, target_accuracy=target).read_text()
        values = json.loads((out / "report.json").read_text())["domains"][0]["abstention"]
        assert ("Answer or abstain" in html) == (target is not None)
        assert (out / "risk-coverage-1-quiz.svg").exists() == (target is not None)
        if target is None:
            assert values is None
        else:
            assert words in html
            assert words in (out / "report.md").read_text()
            expected = threshold_for(domain.after.confidence_N, domain.after.correct_N, target).to_json()
            assert values["after"]["decision"] == expected
    with pytest.raises(ConfigError, match="target accuracy"):
        report([domain], out=tmp_path / "x", target_accuracy=90)


def test_one_question_alone_is_survived():
    one = Domain("one", True, Scores.from_probs(np.array([[0.2, 0.8]]), [1]))
    found = abstention(one, 0.9, n_boot=BOOT, level=0.95, seed=0)
    assert "1 questions; this target and level need at least" in found.sentences[0]
    assert found.sentences[1] == "Area under the curve (AURC), lower is better: 0.000."


def test_clusters_are_not_reckoned_with_and_that_is_said():
    said = abstention(told_apart(), 0.9, n_boot=BOOT, level=0.95, seed=0, cluster="subject").sentences
    assert len(said) == 4
    assert "not as clusters of 'subject'" in said[3]
