"""The report: one page for strangers; every number in it is one of ``measure`` or ``compare``."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from calibrant.diagnosis import diagnose
from calibrant.errors import ConfigError, OutputError
from calibrant.metrics import Difference, compare, measure
from calibrant.reporting import Domain, assess, report
from calibrant.reporting.content import training_facts, usage_code
from calibrant.reporting.tables import METRICS, difference_cell, markdown_number, rows
from calibrant.scores import Scores

BOOT = 100
VOID = {"meta", "link", "br", "use", "path"}


def world(n=300, sharpen=2.2, seed=0, **columns):
    """Overconfident scores and calibrated ones, of the same questions."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(size=(n, 4)) * 1.3
    p = np.exp(logit) / np.exp(logit).sum(1, keepdims=True)
    answer = (rng.random((n, 1)) > p.cumsum(1)).sum(1).clip(0, 3)
    return Scores.from_logp(sharpen * logit, answer, **columns), Scores.from_logp(logit, answer, **columns)


POINT = ("epoch", "step", "nll", "accuracy", "conf_ece", "floor_p95", "mean_confidence")
HISTORY = [
    dict(zip(POINT, values, strict=True))
    for values in (
        (0.0, 0, 1.3, 0.60, 0.18, 0.06, 0.8),
        (1.0, 9, 1.0, 0.63, 0.05, 0.07, 0.6),
        (2.0, 18, 1.1, 0.64, 0.07, 0.07, 0.7),
    )
]
TUNING = {
    "objective": "rcft",
    "adapter": "run/adapter",
    "weights": None,
    "seconds": 131.2,
    "trained_parameters": 4_884_480,
    "total_parameters": 139_400_000,
    "questions": 900,
    "steps": 18,
    "stopped": "held-out log loss rose twice",
    "best_epoch": 1.0,
    "config": {
        "learning_rate": 3e-4,
        "lam": 1.0,
        "e_step": "each_evaluation",
        "seed": 7,
        "lora": {"rank": 16, "alpha": 32, "dropout": 0.05, "targets": ["q", "v"]},
    },
    "history": HISTORY,
}
ASKED = {"model": "owner/name", "revision": None, "seed": 0, "command": "calibrant restore <b>bold</b> --out x"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A full report, its text and its JSON."""
    out = tmp_path_factory.mktemp("report")
    (sick, cured), (sick_ood, cured_ood) = world(), world(200, 3.0, 1)
    domains = [Domain("far <quiz>", False, sick_ood, cured_ood), Domain("near, test", True, sick, cured)]
    diagnosis = diagnose(sick, n_boot=BOOT)
    path = report(
        domains,
        diagnosis=diagnosis,
        tuning=TUNING,
        asked=ASKED,
        notes=["Two rows were left out."],
        out=out,
        n_boot=BOOT,
    )
    return path, path.read_text(encoding="utf-8"), json.loads((out / "report.json").read_text()), domains


class Tree(HTMLParser):
    """Checks that tags close in order and collects what stands where."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.ids, self.numbers, self.text = [], [], [], {}, []
        self.path = None

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append((tag, values))
        self.ids += [values["id"]] if "id" in values else []
        self.path = values.get("data-path")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, tag

    def handle_data(self, data):
        self.text.append(data)
        if self.path:
            self.numbers[self.path] = data
            self.path = None


def read(html):
    tree = Tree()
    tree.feed(html)
    assert tree.open == []
    return tree


def test_everything_is_written(made):
    path, _, values, _ = made
    names = {p.name for p in path.parent.iterdir()}
    figures = {f"{name}.{kind}" for name in values["figures"] for kind in ("svg", "png")}
    assert names == {"index.html", "report.md", "report.json"} | figures
    assert len(values["figures"]) == 10  # per domain: before, after, both, risk-coverage; calibration error; regime map


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(made):
    _, html, _, _ = made
    tree = read(html)
    assert not {"script", "iframe", "img", "object", "embed"} & {tag for tag, _ in tree.tags}
    links = [v for _, values in tree.tags for k, v in values.items() if k in ("href", "src", "xlink:href")]
    assert all(link.startswith(("#", "data:,")) or link in ("report.json", "report.md") for link in links)
    assert not re.search(r"url\((?!#)|@import|//", re.sub(r"http://www\.w3\.org/\S+", "", html.split("<body>")[0]))
    assert len(tree.ids) == len(set(tree.ids))


def test_headings_figures_and_tables_can_be_read_aloud(made):
    tree = read(made[1])
    levels = [int(tag[1]) for tag, _ in tree.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    svgs = [values for tag, values in tree.tags if tag == "svg"]
    assert len(svgs) == 8
    assert all(values["role"] == "img" and values["aria-label"] for values in svgs)
    assert all(values.get("scope") in ("row", "col") for tag, values in tree.tags if tag == "th")
    labelled = [values["aria-labelledby"] for tag, values in tree.tags if tag == "section"]
    assert set(labelled) <= set(tree.ids)


def test_what_users_wrote_is_escaped(made):
    html = made[1]
    assert "far &lt;quiz&gt;" in html
    assert "<quiz>" not in html
    assert "<b>bold" not in html


def test_numbers_are_those_of_measure_and_compare(made):
    _, _, values, domains = made
    domain = domains[1]
    assert values["domains"][0]["name"] == "near, test"  # in domain comes first
    assert values["domains"][0]["before"] == measure(domain.before, n_boot=BOOT).to_json()
    assert values["domains"][0]["after"] == measure(domain.after, n_boot=BOOT).to_json()
    assert values["domains"][0]["change"] == compare(domain.before, domain.after, n_boot=BOOT).to_json()


def test_every_number_of_the_page_is_in_the_json(made):
    _, html, values, _ = made
    shown = read(html).numbers
    assert len(shown) == 2 * 7 * 3  # domains, metrics (no option mass here), before, after and change
    percent = {metric.key for metric in METRICS if metric.percent}
    for path, text in shown.items():
        value = values
        for key in path.split("."):
            value = value[int(key)] if isinstance(value, list) else value[key]
        scale, digits = (100, 1) if path.split(".")[-2] in percent else (1, 3)
        number = float(re.sub("[%pts ]", "", text).replace("−", "-"))
        assert number == pytest.approx(value * scale, abs=0.5001 * 10**-digits), path


def test_the_page_says_what_was_asked_found_and_done(made):
    text = " ".join(" ".join(read(made[1]).text).split())
    for wanted in (
        "Is owner/name as often right as it says, and does tuning repair it?",
        "Calibration restored",
        "Before tuning, the model said ",
        "How to read this:",
        "Diagnosis of the model before the fix: ",
        "What this verdict can and cannot say",
        "2 min",
        "4,884,480 of 139,400,000 (3.50%)",
        "rank 16, alpha 32, dropout 0.05, on q, v",
        "held-out log loss rose twice",
        "λ 1",
        "PeftModel.from_pretrained(model, 'run/adapter')",
        "Two rows were left out.",
        "Limits",
    ):
        assert wanted in text, wanted
    assert "None" not in text
    assert "nan" not in text.split()


def test_the_kept_epoch_is_marked_on_the_map(made):
    svg = (made[0].parent / "regime-map.svg").read_text()
    assert "epoch 1, kept" in svg


def test_a_target_made_of_the_model_itself_draws_no_bound(made):
    assert made[2]["diagnosis"]["target_kind"] == "self"
    assert "A*" not in (made[0].parent / "regime-map.svg").read_text()


def test_what_cannot_be_told_without_a_reference_is_said_and_no_cause_is_drawn(made):
    _, html, _, _ = made
    assert "Not told: without a reference: entropy and confidence shift, agreement, slope and scatter; without" in html
    assert "expected-sharpening" not in html
    assert "Signs of leaving" not in html  # the points of this path do not tell their n


def test_markdown_tables_have_one_width_and_the_pictures_exist(made):
    text = (made[0].parent / "report.md").read_text()
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block
    pictures = re.findall(r"\]\((\S+\.svg)\)", text)
    assert len(pictures) == 6
    assert all((made[0].parent / name).is_file() for name in pictures)
    assert "\n\n\n\n" not in text


def test_the_same_input_gives_the_same_bytes(tmp_path):
    sick, _ = world(120)
    names = ("index.html", "report.json", "report.md", "reliability-1-quiz.png", "reliability-1-quiz.svg")
    made = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        report([Domain("quiz", True, sick)], out=folder, n_boot=BOOT)
        made.append([(folder / name).read_bytes() for name in names])
    assert made[0] == made[1]


def test_measuring_alone_makes_a_report_without_tuning(tmp_path):
    sick, _ = world(150)
    path = report([Domain("quiz", True, sick)], out=tmp_path, n_boot=BOOT)
    html = path.read_text()
    tree = read(html)
    values = json.loads((tmp_path / "report.json").read_text())
    assert values["domains"][0]["after"] is None
    assert values["verdict"]["headline"] == "Overconfident"
    assert len(tree.numbers) == 7
    text = "".join(tree.text)
    for absent in ("What was trained", "How to use", "Diagnosis", "(in domain)", "Change", "tuning repair"):
        assert absent not in text, absent
    assert {p.name for p in tmp_path.iterdir()} == {
        "index.html", "report.md", "report.json", "reliability-1-quiz.svg", "reliability-1-quiz.png",
        "risk-coverage-1-quiz.svg", "risk-coverage-1-quiz.png",
    }  # fmt: skip


def test_a_folder_used_before_keeps_no_old_picture_and_loses_nothing_else(tmp_path):
    sick, cured = world(120)
    report([Domain("old", True, sick, cured)], out=tmp_path, n_boot=BOOT)
    for mine in ("mine.png", "reliability-1-older.svg"):
        (tmp_path / mine).write_bytes(b"mine")
    report([Domain("new", True, sick)], out=tmp_path, n_boot=BOOT)
    left = {p.name for p in tmp_path.glob("*.[sp][vn]g")}
    pictures = ("reliability-1-new", "risk-coverage-1-new")
    assert left == {f"{name}.{kind}" for name in pictures for kind in ("png", "svg")} | {
        "mine.png", "reliability-1-older.svg",
    }  # fmt: skip
    for old in ('{"format": "calibrant-report", "figures": [', '{"format": "calibrant-report", "figures": null}'):
        (tmp_path / "report.json").write_text(old)
        report([Domain("new", True, sick)], out=tmp_path, n_boot=BOOT)  # what cannot be read is not a report


def test_before_and_after_without_a_tuning_run_does_not_speak_of_tuning(tmp_path):
    sick, cured = world(150)
    path = report([Domain("quiz", True, sick, cured)], out=tmp_path, n_boot=BOOT)
    text = path.read_text()
    assert "Before the change, the model said" in text
    assert "what did the change do to it" in text
    assert "tuning, " not in text


def test_a_diagnosis_without_tuning_draws_the_model_on_the_map(tmp_path):
    sick, cured = world(150)
    path = report(
        [Domain("quiz", True, sick)], diagnosis=diagnose(sick, target=cured, n_boot=BOOT), out=tmp_path, n_boot=BOOT
    )
    assert "A*" in (tmp_path / "regime-map.svg").read_text()
    assert "Diagnosis: " in path.read_text()


def test_option_mass_and_its_warning_are_shown():
    rng = np.random.default_rng(0)
    scores = Scores.from_logp(rng.normal(size=(60, 3)), [0] * 60, logmass=np.full(60, np.log(0.2)))
    (part,) = assess([Domain("quiz", True, scores)], n_boot=BOOT)
    assert [row.before.value for row in rows(part, 0)][-1] == "20.0%"
    assert any("hardly wanted to answer" in note for note in part.before.notes)


def test_one_question_and_an_impossible_answer_still_make_a_report(tmp_path):
    one = Scores.from_probs([[0.0, 1.0]], [0])
    html = report([Domain("one", True, one)], out=tmp_path, n_boot=BOOT).read_text()
    assert "infinite" in html
    assert json.loads((tmp_path / "report.json").read_text())["domains"][0]["before"]["nll"]["value"] is None


def test_names_that_differ_only_in_signs_get_files_of_their_own():
    sick, _ = world(60)
    domains = [Domain("a/b", True, sick), Domain("a b", False, sick), Domain("¡!", False, sick)]
    assert [part.key for part in assess(domains, n_boot=BOOT)] == ["1-a-b", "2-a-b", "3-set"]


def test_an_undecided_change_says_how_many_questions_would_settle_it():
    """To two digits: 127,330 would claim more than is known."""
    d = Difference(0.5, 0.502, 0.002, -0.02, 0.024, 500, 0.8, 127_330, "undecided")
    cell = difference_cell(d, METRICS[0])
    assert (cell.value, cell.interval) == ("+0.2 pts", "−2.0 to +2.4 pts")
    assert (cell.floor, cell.verdict) == ("about 130,000 questions would settle it", "no detectable change")


@pytest.mark.parametrize("how", ["none", "twice", "some"])
def test_domains_that_make_no_report_are_refused(how):
    sick, cured = world(60)
    domains = {
        "none": [],
        "twice": [Domain("a", True, sick), Domain("a", False, sick)],
        "some": [Domain("a", True, sick, cured), Domain("b", False, sick)],
    }[how]
    with pytest.raises(ConfigError, match="to do:"):
        assess(domains, n_boot=BOOT)


def test_a_file_in_the_way_is_told(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OutputError):
        report([Domain("a", True, world(60)[0])], out=blocked / "report", n_boot=BOOT)


@pytest.mark.parametrize(
    ("base", "tuning", "wanted"),
    [
        ("owner/name", {"adapter": "a"}, "from_pretrained('owner/name')"),
        (
            "dir/m.gguf",
            {"adapter": "a"},
            "from_pretrained('dir', gguf_file='m.gguf', quantization_config=GgufConfig(dequantize=True))",
        ),
        ("m.gguf", {"adapter": "a"}, "AutoTokenizer.from_pretrained('.', gguf_file='m.gguf')"),
        ("owner/name", {"adapter": None, "weights": "run/model"}, "AutoModelForCausalLM.from_pretrained('run/model')"),
    ],
)
def test_the_code_to_use_it_is_python_and_names_the_right_files(base, tuning, wanted):
    code = usage_code(base, tuning)
    compile(code, "usage", "exec")
    assert wanted in code
    assert ("PeftModel" in code) == bool(tuning["adapter"])
    assert ("GgufConfig" in code.splitlines()[0] + code.splitlines()[1]) == base.endswith(".gguf")


def test_a_revision_is_pinned():
    assert usage_code("o/n", {"adapter": "a"}, "abc").count("revision='abc'") == 2


def test_facts_that_are_unknown_are_left_out():
    assert training_facts({"objective": "cft", "seconds": None, "config": {}}) == [
        ("Objective", "CFT: log loss of the answer alone")
    ]


def test_the_package_imports_no_torch():
    import subprocess
    import sys

    code = "import sys, calibrant.reporting; sys.exit('torch' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_templates_are_part_of_the_package():
    import calibrant.reporting

    folder = Path(calibrant.reporting.__file__).parent
    page, contest = ("template.html.jinja", "template.md.jinja"), ("contest.html.jinja", "contest.md.jinja")
    others = ("card.md.jinja", "serving.md.jinja", "page.css.jinja")
    assert {p.name for p in folder.glob("*.jinja")} == {*page, *contest, *others}


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [(0.4, np.inf, "became infinite"), (np.inf, 0.4, "no longer infinite"), (np.inf, np.inf, "not comparable")],
)
def test_a_change_to_or_from_infinity_is_not_called_undetectable(a, b, said):
    d = Difference(a, b, b - a, np.nan, np.nan, 500, np.nan, None, "undecided")
    cell = difference_cell(d, METRICS[0])
    assert cell.verdict == said
    assert markdown_number(cell) == said  # without the stars of a number that is not there
