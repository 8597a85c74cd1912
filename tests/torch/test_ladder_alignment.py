"""A ladder that checks alignment, on tiny models: what is checked, once; by whose numbers; and what goes wrong."""

import json

import numpy as np
import pytest

from calibrant.alignment import AlignSettings, align_check, load_preferences, load_prompts
from calibrant.alignment import run as checks
from calibrant.alignment.preferences import PairLogps
from calibrant.errors import ConfigError
from calibrant.ladder import Ladder, read_table, write_table
from calibrant.reporting.kept import check_row
from calibrant.tuning import TuneConfig
from calibrant.tuning.interpolation import interpolate

CONFIG = TuneConfig.make({"epochs": 1, "batch_size": 8, "learning_rate": 0.01, "lora": {"rank": 2, "alpha": 4}})
SETTINGS = AlignSettings(max_new_tokens=4, instructions=False, n_boot=100)
CPU = {"device": "cpu"}
PAIRS = load_preferences(
    [{"prompt": f"Capital {i}?", "chosen": "It is Paris", "rejected": f"Rome {i}"} for i in range(4)]
)
PROMPTS = load_prompts([{"prompt": f"Name a city, {i}"} for i in range(3)])


@pytest.fixture
def make_ladder(model_folder, make_questions, tmp_path):
    """A function that makes a ladder with some of its fields changed."""

    def make(**changed):
        sizes = {"train": 16, "calibration": 12, "test": 12}
        fields = {
            "model": model_folder(),
            "splits": {name: make_questions(name, size) for name, size in sizes.items()},
            "out": tmp_path / "ladder",
            "fixes": ["temperature", "sft", "cft", "cft+temperature"],
            "budget": "quick",
            "seeds": 2,
            "config": CONFIG,
            "preferences": PAIRS,
            "prompts": PROMPTS,
            "align": SETTINGS,
            "loading": CPU,
        }  # fmt: skip
        return Ladder(**{**fields, **changed})

    return make


def checked(out):
    """Files of checks, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in sorted(out.glob("cells/*/*/seed-*/alignment-*/*"))}


def folder_of(made, name):
    return made.out / "cells" / name / "default/seed-0" / made.asked.folder


@pytest.mark.slow
def test_the_first_seed_of_what_changes_the_model_is_checked_and_shown(make_ladder, tmp_path, monkeypatch):
    made, generated = make_ladder(), []
    real = checks.generate
    monkeypatch.setattr(checks, "generate", lambda *args, **more: generated.append(args) or real(*args, **more))
    made.run()
    assert {path.parent for path in checked(made.out)} == {folder_of(made, "sft"), folder_of(made, "cft")}
    assert len(generated) == 3  # the aligned model answers once for both
    table = read_table(made.out, n_boot=100)
    found = {s.fix.name: s.alignment for s in table.fixes}
    assert [found[name].verdict for name in ("aligned", "temperature")] == ["unchanged", "unchanged"]
    assert (found["cft+temperature"].of, found["cft+temperature"].seed) == ("cft", 0)
    assert len({json.dumps(found[name].to_json()) for name in ("sft", "cft")}) == 2

    adapter = made.out / "cells/cft/default/seed-0/tuning/adapter"
    by_hand = align_check(
        made.model, adapter=adapter, preferences=PAIRS, prompts=PROMPTS, settings=SETTINGS, out=tmp_path / "hand", **CPU
    )
    assert list(found["cft"].checks) == json.loads(json.dumps(by_hand.to_json()))["checks"]
    kl = found["cft"].to_json()["checks"]["kl_aligned"]
    assert kl["value"] > 0
    text = write_table(table, made.out).with_suffix(".md").read_text().partition("## Alignment kept")[2]
    row = next(check_row(check) for check in by_hand.to_json()["checks"] if check["name"] == "kl_aligned")
    assert f"| {row['change']} [{row['interval']}] |" in text


@pytest.mark.slow
def test_a_second_call_checks_nothing_again_and_a_lost_part_alone(make_ladder):
    made = make_ladder()
    made.run()
    before = checked(made.out)
    made.run()
    make_ladder(preferences=None, prompts=None, align=None).run()
    assert checked(made.out) == before
    assert read_table(made.out, n_boot=50).alignment("cft").of == "cft"  # still shown
    for name in ("alignment.json", "divergence-aligned.jsonl"):
        (folder_of(made, "cft") / name).unlink()
    assert read_table(made.out, n_boot=50).alignment("cft").verdict == "not checked"
    assert [job.cell for job in made.plan().jobs if not job.done] == ["cft/default/seed-0"]
    made.run()
    after = checked(made.out)
    assert {path.name for path in after if after[path] != before[path]} == {
        "alignment.json", "alignment.txt", "divergence-aligned.jsonl",
    }  # fmt: skip


@pytest.mark.slow
def test_pairs_alone_and_prompts_that_come_later(make_ladder):
    pairs_only = make_ladder(fixes=["cft"], prompts=None, seeds=1)
    pairs_only.run()
    tuned = {p: p.stat().st_mtime_ns for p in pairs_only.out.rglob("*.safetensors")}
    assert {c["name"] for c in read_table(pairs_only.out, n_boot=50).alignment("cft").checks} == {"ranking", "margin"}
    make_ladder(fixes=["cft"], seeds=1).run()
    assert {p: p.stat().st_mtime_ns for p in pairs_only.out.rglob("*.safetensors")} == tuned
    names = {c["name"] for c in read_table(pairs_only.out, n_boot=50).alignment("cft").checks}
    assert {"ranking", "margin", "kl_aligned", "length"} <= names


@pytest.mark.slow
def test_mixed_weights_are_checked_as_a_whole_model_and_then_thrown_away(make_ladder, make_model, tokenizer, tmp_path):
    base = tmp_path / "base"
    make_model("llama", tokenizer, spread=6.0).save_pretrained(base)
    tokenizer.save_pretrained(base)
    made = make_ladder(fixes=["interpolation"], reference=base)
    made.run()
    assert not list(made.out.rglob("mixed"))
    found = made.out / "cells/interpolation/alpha-0.5/seed-0" / made.asked.folder
    logp = PairLogps.load(found / "preferences.jsonl").logp_P2
    assert np.abs(logp["tuned"] - logp["aligned"]).max() > 0.1
    interpolate(base, made.model, 0.5, tmp_path / "half")
    align_check(made.model, tuned=tmp_path / "half", preferences=PAIRS, settings=SETTINGS, out=tmp_path / "hand", **CPU)
    by_hand = PairLogps.load(tmp_path / "hand" / "preferences.jsonl").logp_P2
    np.testing.assert_array_equal(logp["tuned"], by_hand["tuned"])
    table = read_table(made.out, n_boot=50)
    assert table.alignment("interpolation").of == "interpolation"
    assert table.alignment("pre-alignment").verdict == "not checked"


@pytest.mark.slow
def test_a_check_that_fails_is_recorded_and_the_others_go_on(make_ladder):
    made = make_ladder()
    strange = folder_of(made, "sft")
    make_ladder(preferences=None, prompts=None, align=None).run()
    strange.mkdir()
    (strange / "notes.txt").write_text("mine")
    made.run()
    table = read_table(made.out, n_boot=50)
    assert (table.alignment("sft").verdict, table.alignment("cft").of) == ("failed", "cft")
    assert "something that is not a run" in table.alignment("sft").reason
    assert {s.state for s in table.fixes} == {"complete"}
    error = json.loads((strange.parent / "error.json").read_text())["alignment check"]
    assert set(error) == {"asked", "found", "todo"}
    assert "something that is not a run" in write_table(table, made.out).read_text()
    (strange / "notes.txt").unlink()
    made.run()
    assert read_table(made.out, n_boot=50).alignment("sft").of == "sft"
    assert not (strange.parent / "error.json").exists()


def test_the_plan_counts_the_checks_and_settings_without_a_question_are_refused(make_ladder):
    made = make_ladder(fixes=["cft", "cft+temperature", "isotonic", "sft"], seeds=2)
    plan = made.dry_run()
    jobs = {job.cell: job.passes for job in plan.jobs if job.what == "align"}
    assert list(jobs) == ["sft/(chosen)/seed-0", "cft/(chosen)/seed-0"]
    assert jobs["sft/(chosen)/seed-0"] > jobs["cft/(chosen)/seed-0"] > 0
    assert "4 trainings of" in plan.to_text()
    assert "as if it took all the new tokens" in plan.to_text()
    assert not made.out.exists()
    with pytest.raises(ConfigError, match="no preference pairs and no prompts"):
        make_ladder(preferences=None, prompts=None)


@pytest.mark.slow
def test_what_the_aligned_model_said_in_another_precision_is_not_taken(make_ladder):
    make_ladder(fixes=["cft"], seeds=1).run()
    made = make_ladder(fixes=["sft"], seeds=1)
    first = folder_of(made, "cft") / "run.json"
    first.write_text(json.dumps({**json.loads(first.read_text()), "dtype": "bfloat16"}))  # as from a GPU
    (folder_of(made, "cft") / "preferences.jsonl").write_text("not read\n")
    made.run()
    assert (folder_of(made, "sft") / "alignment.json").exists()
    assert not (made.out / "cells/sft/default/seed-0/error.json").exists()
