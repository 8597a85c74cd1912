"""The ladder on tiny models: protocol, cells, errors, resumption; and a table against measure and compare."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from calibrant.errors import ConfigError, LeakageError, QuestionError, ScoresError
from calibrant.ladder import Ladder, ladder, read_table, settings_named, write_table
from calibrant.metrics import compare, measure
from calibrant.questions import Question, QuestionSet
from calibrant.scalers import Vector
from calibrant.scores import Scores
from calibrant.scoring import score
from calibrant.tuning import TuneConfig

CONFIG = TuneConfig.make({"epochs": 1, "batch_size": 8, "learning_rate": 0.01, "lora": {"rank": 2, "alpha": 4}})
CPU = {"device": "cpu"}
SIZES = {"train": 24, "calibration": 30, "test": 36}


@pytest.fixture
def make_ladder(model_folder, make_questions, tmp_path):
    """A function that makes a ladder with some of its fields changed."""

    def make(**changed):
        fields = {
            "model": model_folder(),
            "splits": {n: make_questions(n, size, ks=(4, 3)) for n, size in SIZES.items()},
            "out": tmp_path / "ladder",
            "ood": {"far": make_questions("far", 20)},
            "fixes": ["temperature", "cft"],
            "budget": "quick",
            "seeds": 2,
            "config": CONFIG,
            "loading": CPU,
        }  # fmt: skip
        return Ladder(**{**fields, **changed})

    return make


def stamps(folder, pattern):
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in sorted(folder.rglob(pattern))}


# ---- the protocol ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_ladder_gives_the_numbers_of_measure_and_compare_on_its_stored_scores(make_ladder):
    made = make_ladder(fixes=["temperature", "sft", "rcft", "cft+temperature"], budget="standard")
    made.run()
    table = read_table(made.out, n_boot=200)
    assert [one.name for one in table.sets] == ["test", "far"]
    place = {standing.fix.name: standing for standing in table.fixes}
    assert set(place) == {"aligned", "temperature", "sft", "cft", "rcft", "cft+temperature"}
    assert {standing.state for standing in table.fixes} == {"complete"}
    for one in table.sets:
        aligned = stored(made.out, "aligned", place["aligned"], 0, one.name)
        for name, entry in one.entries.items():
            runs = [stored(made.out, name, place[name], seed, one.name) for seed in entry.seeds]
            assert len(runs) == (1 if name in ("aligned", "temperature") else 2)
            measured = [measure(run, n_boot=200) for run in runs]
            changes = [compare(aligned, run, n_boot=200) for run in runs]
            for metric in ("accuracy", "conf_ece", "cw_ece", "nll", "brier"):
                each = [m[metric].value for m in measured]
                assert entry.runs[metric] == pytest.approx(each)
                assert entry.estimates[metric].value == pytest.approx(np.mean(each))
                if len(runs) == 1:
                    assert entry.estimates[metric].low == pytest.approx(measured[0][metric].low, abs=1e-6)
                    assert entry.estimates[metric].high == pytest.approx(measured[0][metric].high, abs=1e-6)
                if name != "aligned":
                    found = entry.against_aligned[metric]
                    assert found.difference.value == pytest.approx(np.mean([c[metric].value for c in changes]))
                    assert found.p_corrected >= found.difference.p_value


def stored(out, name, standing, seed, which):
    setting = standing.choice["setting"]
    return Scores.load(out / "cells" / name / setting / f"seed-{seed}" / "scores" / f"{which}.safetensors")


def test_all_trained_fixes_take_equally_many_steps_whatever_their_held_out_loss_does(make_ladder):
    config = TuneConfig.make({**CONFIG.model_dump(), "epochs": 4, "learning_rate": 0.3, "patience": 1})
    made = make_ladder(fixes=["sft", "cft", "focal"], seeds=1, config=config)
    made.run()
    results = {
        path.parts[-4]: json.loads(path.read_text()) for path in (made.out / "cells").glob("*/*/seed-0/result.json")
    }
    assert {name: r["steps"] for name, r in results.items() if name != "aligned"} == {"sft": 12, "cft": 12, "focal": 12}
    assert any(
        r["kept_step"] < 12 for name, r in results.items() if name != "aligned"
    )  # early stopping would have cut it


def test_a_sweep_chooses_by_calibration_loss_and_only_the_chosen_setting_meets_the_test(make_ladder):
    made = make_ladder(fixes=["cft", "histogram"], budget="standard", seeds=1)
    made.run()
    for name in ("cft", "histogram"):
        folder = made.out / "cells" / name
        choice = json.loads((folder / "choice.json").read_text())
        tried = {one["setting"]: one["nll"] for one in choice["candidates"]}
        assert len(tried) == 3
        assert choice["setting"] == min(tried, key=tried.get)
        assert {path.parts[-4] for path in folder.rglob("test.safetensors")} == {choice["setting"]}
        written = (folder / "choice.json").stat().st_mtime_ns
        assert all(path.stat().st_mtime_ns > written for path in folder.rglob("test.safetensors"))
    in_domain = Scores.load(made.out / f"cells/histogram/{choice['setting']}/seed-0/scores/calibration.safetensors")
    assert choice["nll"] == pytest.approx(measure(in_domain, n_boot=50)["nll"].value)
    assert in_domain.provenance["scaler"]["cross_validated"]


@pytest.mark.slow
def test_the_choice_does_not_depend_on_the_test_questions_which_need_not_even_be_answerable(make_ladder, tmp_path):
    """Test questions longer than the model's context stop any scoring of them; everything up to the choice is the same."""
    made = make_ladder(fixes=["temperature", "cft"], budget="standard", seeds=1, ood={})
    made.run()
    long = [Question(f"long {i}", f"{i}: " + "far too long " * 400, ("a", "b", "c"), 0) for i in range(2)]
    splits = {**made.splits, "test": QuestionSet("test", tuple(long))}
    poisoned = make_ladder(
        fixes=["temperature", "cft"], budget="standard", seeds=1, ood={}, splits=splits, out=tmp_path / "p"
    )
    poisoned.run()
    for name in ("temperature", "cft"):
        one, other = (json.loads((x.out / "cells" / name / "choice.json").read_text()) for x in (made, poisoned))
        assert one == other
    errors = json.loads((poisoned.out / "cells/aligned/default/seed-0/error.json").read_text())
    assert list(errors) == ["score"]
    assert "4825 tokens" in errors["score"]["found"]
    assert not list(poisoned.out.rglob("test.safetensors"))
    assert read_table(poisoned.out).sets == []


def test_what_fits_holds_no_test_question(make_ladder):
    made = make_ladder()
    held = [value for value in vars(made.bench()).values() if isinstance(value, QuestionSet)]
    assert {q.content_hash for some in held for q in some}.isdisjoint(
        q.content_hash for some in made.exam.values() for q in some
    )


def test_a_question_in_two_sets_is_refused_before_anything_is_written(make_ladder, make_questions):
    for far in ("train", "calibration", "test"):
        with pytest.raises(LeakageError, match="without a common question"):
            make_ladder(ood={"far": make_questions(far, 12)})
    made = make_ladder()
    with pytest.raises(LeakageError):
        make_ladder(splits={**made.splits, "test": made.splits["calibration"]})
    with pytest.raises(QuestionError, match="none for far"):
        make_ladder(ood={"far": QuestionSet("far", ())})
    with pytest.raises(QuestionError, match="1 for far"):
        make_ladder(ood={"far": make_questions("far", 1)})
    with pytest.raises(ConfigError, match="name of a split"):
        make_ladder(ood={"train": make_questions("far", 12)})
    assert not made.out.exists()


# ---- errors and resumption ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_error_in_one_cell_is_recorded_and_the_others_go_on(make_ladder, model_folder, make_questions, monkeypatch):
    """The reference is of another architecture, and one map is made to refuse the far questions, which have five options."""
    own = Vector._rescaled

    def refusing(scaler, scores):
        if scores.k == 5:
            raise ScoresError(asked="five", found="too many options", todo="none")
        return own(scaler, scores)

    monkeypatch.setattr(Vector, "_rescaled", refusing)
    far = {"far": make_questions("far", 20, ks=(5,))}
    made = make_ladder(fixes=["vector", "interpolation", "temperature"], reference=model_folder("qwen3"), ood=far)
    made.run()
    table = read_table(made.out, n_boot=50)
    standing = {one.fix.name: one for one in table.fixes}
    assert standing["interpolation"].state == "failed"
    assert "configurations that differ" in standing["interpolation"].reason
    error = json.loads((made.out / "cells/interpolation/alpha-0.5/seed-0/error.json").read_text())["fit"]
    assert set(error) == {"asked", "found", "todo"}
    assert standing["vector"].state == "0 of 1 seeds"
    assert "far" in standing["vector"].reason
    assert {"aligned", "pre-alignment", "vector", "temperature"} == set(table.sets[0].entries)
    assert {"aligned", "pre-alignment", "temperature"} == set(table.sets[1].entries)
    monkeypatch.undo()
    made.run()  # tries again what had failed
    table = read_table(made.out, n_boot=50)
    assert {"aligned", "pre-alignment", "vector", "temperature"} == set(table.sets[1].entries)
    notes = json.loads((made.out / "cells/vector/default/seed-0/notes.json").read_text())
    assert "positions from 5 on take the mean of the others" in notes["far"]


@pytest.mark.slow
def test_mixed_weights_and_daca_use_the_reference_and_leave_no_model_behind(
    make_ladder, make_model, tokenizer, tmp_path
):
    make_model("llama", tokenizer, spread=6.0).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    made = make_ladder(fixes=["interpolation", "daca"], reference=tmp_path / "base", budget="standard", ood={})
    made.run()
    assert not list(made.out.rglob("mixed"))
    entries = read_table(made.out, n_boot=50).sets[0].entries
    assert list(entries) == ["aligned", "pre-alignment", "daca", "interpolation"]
    assert entries["pre-alignment"].against_aligned["nll"].p_corrected is None
    assert {c.other for name in ("daca", "interpolation") for c in entries[name].against_best.values()} == {
        "daca",
        "interpolation",
    }
    mixed, ends = (
        entries["interpolation"].estimates["nll"].value,
        [entries[n].estimates["nll"].value for n in ("aligned", "pre-alignment")],
    )
    assert mixed not in ends


@pytest.mark.slow
def test_a_cell_that_was_lost_is_done_again_and_nothing_else(make_ladder):
    made = make_ladder()
    made.run()
    before = stamps(made.out, "*.safetensors")
    made.run()
    assert stamps(made.out, "*.safetensors") == before
    lost = made.out / "cells/cft/default/seed-1/scores/test.safetensors"
    content = lost.read_bytes()
    lost.unlink()
    assert {one.fix.name: one.state for one in read_table(made.out, n_boot=50).fixes}["cft"] == "1 of 2 seeds"
    made.run()
    after = stamps(made.out, "*.safetensors")
    assert {path for path in after if after[path] != before[path]} == {lost.relative_to(made.out)}
    assert np.array_equal(Scores.load(lost).logp_NK, scores_from(content, made.out).logp_NK)


@pytest.mark.slow
def test_what_a_map_warns_of_is_kept(make_ladder, make_questions):
    """Fitted on questions of 3 and 4 options, applied to questions of 2."""
    made = make_ladder(fixes=["vector"], ood={"far": make_questions("far", 20, ks=(2,))})
    made.run()
    notes = {one.fix.name: one.notes for one in read_table(made.out, n_boot=50).fixes}
    assert len(notes["vector"]) == 1
    assert "far" in notes["vector"][0]
    assert "2 options" in notes["vector"][0]


@pytest.mark.slow
def test_a_temperature_at_an_end_of_its_range_is_said(make_ladder, make_questions, loaded):
    """Where the answers are what the model finds least probable, no finite temperature is best."""
    questions = make_questions("calibration", 30)
    least = score(loaded(), questions, progress=False).logp_NK.argmin(1)
    wrong = [replace(q, answer=int(k)) for q, k in zip(questions, least, strict=True)]
    splits = {"train": make_questions("train", 24), "calibration": QuestionSet("calibration", tuple(wrong))}
    made = make_ladder(fixes=["temperature"], splits={**splits, "test": make_questions("test", 36)}, ood={})
    made.run()
    table = write_table(read_table(made.out, n_boot=50), made.out).parent
    assert "the temperature stopped at 100, an end of its range" in (table / "table.md").read_text()
    assert "| reading | letters (raw) |" in (table / "table.md").read_text()


def scores_from(content, folder):
    (folder.parent / "kept.safetensors").write_bytes(content)
    return Scores.load(folder.parent / "kept.safetensors")


@pytest.mark.slow
def test_fixes_and_seeds_are_added_to_a_folder_and_another_ladder_is_refused(make_ladder):
    made = make_ladder(seeds=1)
    made.run()
    before = stamps(made.out, "*.safetensors")
    make_ladder(seeds=2, fixes=["cft", "isotonic"]).run()
    after = stamps(made.out, "*.safetensors")
    assert {path: after[path] for path in before} == before
    assert {path.parts[1] for path in set(after) - set(before)} == {"cft", "isotonic"}
    entries = read_table(made.out, n_boot=50).sets[0].entries
    assert {name: entry.seeds for name, entry in entries.items()} == {
        "aligned": (0,), "temperature": (0,), "isotonic": (0,), "cft": (0, 1),
    }  # fmt: skip
    with pytest.raises(ConfigError, match="different budget"):
        make_ladder(budget="standard").run()
    with pytest.raises(ConfigError, match="different config"):
        make_ladder(config=CONFIG.model_copy(update={"epochs": 2.0})).run()


@pytest.mark.slow
def test_a_named_setting_is_run_with_every_seed_and_nothing_is_swept(make_ladder):
    named = {"cft": "lr-x3", "histogram": "n-bins-5"}
    made = make_ladder(fixes=["cft", "histogram", "focal"], budget="standard", settings=named)
    jobs = [(job.cell, job.what) for job in made.plan().jobs if job.cell.startswith("cft/")]
    assert jobs[0] == ("cft/lr-x3/seed-0", "sweep")
    assert [what for _, what in jobs] == ["sweep", "score", "fit", "score"]
    made.run()
    folders = {path.parent.name for path in made.out.glob("cells/cft/*/seed-*")}
    assert folders == {"lr-x3"}
    cft, histogram, focal = (
        json.loads((made.out / "cells" / name / "choice.json").read_text()) for name in ("cft", "histogram", "focal")
    )
    assert (cft["setting"], histogram["setting"]) == ("lr-x3", "n-bins-5")
    assert cft["criterion"] == histogram["criterion"] == "none: named beforehand"
    assert len(cft["candidates"]) == 1
    assert len(focal["candidates"]) == 3, "a fix whose setting was not named has its sweep"
    table = read_table(made.out, n_boot=50)
    assert table.sets[0].entries["cft"].seeds == (0, 1)
    text = write_table(table, made.out).with_suffix(".md").read_text()
    assert "lr-x3 (named)" in text
    assert "Named beforehand, with no sweep here: the setting of histogram, cft." in text
    make_ladder(fixes=["cft"], budget="standard").run()  # the choice stays
    with pytest.raises(ConfigError, match="chose 'lr-x3'"):
        make_ladder(fixes=["cft"], budget="standard", settings={"cft": "default"}).run()


def test_a_setting_or_a_fix_that_is_not_there_is_refused(make_ladder):
    with pytest.raises(ConfigError, match="did you mean 'lr-x3'"):
        make_ladder(settings={"cft": "lr-x4"})
    with pytest.raises(ConfigError, match="a ladder without it: aligned, temperature, cft"):
        make_ladder(settings={"focal": "default"})
    assert settings_named(None) == settings_named("") == {}
    assert settings_named("cft = lr-x3,rcft=default") == {"cft": "lr-x3", "rcft": "default"}
    for wrong, found in (("cft", "'cft', which is not"), ("cft=", "not FIX=SETTING"), ("cft=a,cft=b", "cft twice")):
        with pytest.raises(ConfigError, match=found):
            settings_named(wrong)


def test_a_folder_does_not_go_on_with_another_model_in_the_place_of_its_own(make_ladder, model_folder, tmp_path):
    shutil.copytree(model_folder(), tmp_path / "model")
    made = make_ladder(model=tmp_path / "model", fixes=["temperature"])
    made.run()
    weights = load_file(tmp_path / "model" / "model.safetensors")
    save_file(
        {name: w * 1.01 for name, w in weights.items()}, tmp_path / "model" / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ConfigError, match="different weights"):
        made.run()


def test_the_plan_names_every_cell_and_a_dry_run_writes_nothing(make_ladder):
    made = make_ladder(fixes=["cft", "cft+temperature", "daca"], budget="standard", seeds=3)
    plan = made.dry_run()
    assert not made.out.exists()
    assert plan.not_run == {
        "pre-alignment": "needs the pre-alignment model (--reference)",
        "daca": "needs the pre-alignment model (--reference)",
    }
    jobs = [(job.cell, job.what) for job in plan.jobs]
    assert jobs[:2] == [("aligned/default/seed-0", "sweep"), ("aligned/(chosen)/seed-0", "score")]
    assert [cell for cell, what in jobs if what == "sweep" and cell.startswith("cft/")] == [
        "cft/default/seed-0", "cft/lr-x3/seed-0", "cft/lr-x0.33/seed-0",
    ]  # fmt: skip
    assert [cell for cell, what in jobs if what == "fit"] == [
        "cft/(chosen)/seed-1", "cft/(chosen)/seed-2", "cft+temperature/(chosen)/seed-1", "cft+temperature/(chosen)/seed-2",
    ]  # fmt: skip
    text = plan.to_text()
    assert "5 trainings of 3 optimiser steps each" in text
    assert "not run: needs the pre-alignment model" in text
    assert plan.seconds > 0


def test_the_library_function_runs_and_writes_the_page(make_ladder):
    made = make_ladder(fixes=["temperature"])
    table = ladder(
        made.model, made.splits, out=made.out, ood=made.ood, fixes=["temperature"], budget="quick", config=CONFIG,
        loading=CPU, table={"n_boot": 100, "cluster": "subject"},
    )  # fmt: skip
    assert table.sets[0].n_clusters == 12
    assert {"table.md", "table.json", "table.html"} <= {path.name for path in (made.out / "table").iterdir()}
