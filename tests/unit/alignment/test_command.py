"""The real commands: align-check with a judge, restore with pairs and prompts, report with what they wrote."""

import json

import pytest

from command import run

QUIET = ("--quiet", "--device", "cpu")


@pytest.fixture(scope="module")
def room(tmp_path_factory, model_folder, make_questions):
    """A folder with a model, pairs of which one is bad, prompts, and a finished restore run that was asked both."""
    folder = tmp_path_factory.mktemp("alignment")
    (folder / "model").symlink_to(model_folder())
    make_questions("capitals", 60).save(folder / "capitals.jsonl")
    rows = ["question,better,worse"] + [f"Capital number {i}?,Paris {i},Rome" for i in range(6)] + ["Same?,yes,yes"]
    (folder / "pairs.csv").write_text("\n".join(rows))
    pairs = [{"prompt": f"Capital number {i}?", "chosen": f"Paris {i}", "rejected": "Rome"} for i in range(6)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"Name city {i}."}) + "\n" for i in range(4)))
    (folder / "settings.yaml").write_text(
        "patience: 0\nbatch_size: 8\nlora: {rank: 4, alpha: 8}\nlearning_rate: 0.01\n"
    )
    return folder


RESTORE = ("restore", "model", "--questions", "capitals.jsonl", "--objective", "cft", "--config", "settings.yaml")
ASKED = ("--preferences", "pairs.jsonl", "--prompts", "prompts.jsonl")


@pytest.fixture(scope="module")
def restored(room):
    run(*RESTORE, *ASKED, "--out", "run", *QUIET, cwd=room)
    return room


@pytest.mark.slow
def test_restore_with_pairs_and_prompts_says_whether_alignment_was_kept(restored):
    folder = restored / "run"
    found = json.loads((folder / "alignment.json").read_text())
    assert (found["preferences"]["n"], found["drift"]["n"], found["instructions"]["n"]) == (6, 4, 80)
    assert found["facts"]["adapter"].endswith("run/tuning/adapter")
    assert found["divergence"][0]["kl"]["value"] > 0
    page = (folder / "report" / "index.html").read_text()
    assert found["headline"] in page
    assert json.loads((folder / "report" / "report.json").read_text())["alignment"]["checks"] == found["checks"]
    assert "## Alignment:" in (folder / "tuning" / "adapter" / "README.md").read_text()


@pytest.mark.slow
def test_restore_once_more_does_nothing_again_and_pairs_may_come_later(restored):
    kept = list((restored / "run" / "alignment").rglob("*.jsonl"))
    assert len(kept) == 4
    times = {p: p.stat().st_mtime_ns for p in kept}
    run(*RESTORE, *ASKED, "--out", "run", *QUIET, cwd=restored)
    assert {p: p.stat().st_mtime_ns for p in kept} == times


@pytest.mark.slow
def test_align_check_with_a_judge_prints_and_keeps_its_result(restored, judge_server):
    server = judge_server(lambda _first, _second: "Verdict: A")
    arguments = ["align-check", "model", "--adapter", "run/tuning/adapter", "--preferences", "pairs.csv", "--skip-bad"]
    arguments += ["--preference-columns", "{prompt: question, chosen: better, rejected: worse}", "--no-instructions"]
    arguments += ["--prompts", "prompts.jsonl", "--max-new-tokens", "8", "--kl-contexts", "aligned,tuned"]
    arguments += ["--judge-url", server.url, "--judge-model", "first", "--out", "check", *QUIET]
    out, err = run(*arguments, cwd=restored)
    assert "pairs.csv line 8: chosen and rejected are the same" in err
    assert out.startswith(("Whether alignment was kept is undecided.", "Alignment not kept."))
    assert out == (restored / "check" / "alignment.txt").read_text()
    asked = len(server.requests)
    printed, _ = run(*arguments, "--json", cwd=restored)
    found = json.loads(printed)
    assert found == json.loads((restored / "check" / "alignment.json").read_text()) | {"facts": found["facts"]}
    assert len(server.requests) == asked == 2 * (4 - found["wins"]["identical"]) + 2 * 6
    assert (found["wins"]["agreement"]["value"], found["wins"]["agreement"]["n"]) == (0.5, 6)
    assert "The judge preferred what people preferred in 50% [" in out
    if found["wins"]["position_bias"]:
        assert found["wins"]["position_bias"]["value"] == 1.0
    assert found["wins"]["win_rate"]["value"] == 0.5
    assert [d["contexts"] for d in found["divergence"]] == ["aligned", "tuned"]


@pytest.mark.slow
def test_report_takes_what_align_check_wrote(restored):
    scores = [f"run/scores/{when}/test.safetensors" for when in ("before", "after")]
    arguments = (
        "report",
        "--before",
        scores[0],
        "--after",
        scores[1],
        "--alignment",
        "run/alignment.json",
        "--out",
        "page",
    )
    run(*arguments, cwd=restored)
    headline = json.loads((restored / "run" / "alignment.json").read_text())["headline"]
    assert headline in (restored / "page" / "index.html").read_text()
    _, err = run(*arguments[:-3], "absent.json", "--out", "other", cwd=restored, code=2)
    assert err.startswith("asked: JSON from absent.json")


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ((), "neither an adapter nor tuned weights"),
        (("--adapter", "a", "--judge-url", "http://host/v1"), "--judge-url without --judge-model"),
        (("--adapter", "a", "--thresholds", "{klx: 1}"), "did you mean 'kl'"),
        (("--adapter", "a", "--preferences", "none.jsonl"), "no such file"),
        (("--adapter", "a", "--kl-contexts", "base"), "contexts base"),
    ],
)
def test_users_errors_are_three_lines(room, more, found):
    _, err = run("align-check", "model", "--out", "never", *more, cwd=room, code=2)
    assert found in err
    assert [line.split(":")[0] for line in err.splitlines()[-3:]] == ["asked", "found", "to do"]
    assert not (room / "never").exists()
