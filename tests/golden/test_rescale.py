"""``calibrant rescale``: every method through the real command, on scores whose truth is known."""

import json
from dataclasses import replace

import numpy as np
import pytest

from calibrant import Scores
from calibrant.metrics import nll
from calibrant.scalers import SCALERS, load_scaler
from command import run as called


def run(*args, cwd, code=0):
    """What it says on stdout, or why it refuses."""
    out, err = called(*args, cwd=cwd, code=code)
    return out if code == 0 else err


def warned(folder, *args):
    """What a run that goes well says on stderr."""
    return called(*args, cwd=folder)[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Answers follow p; the aligned model says p³, its base p."""
    place = tmp_path_factory.mktemp("scores")
    for seed, name in enumerate(("fit", "test")):
        rng = np.random.default_rng(seed)
        logit = rng.normal(size=(600, 4)) * 1.2
        p = np.exp(logit) / np.exp(logit).sum(1, keepdims=True)
        answer = (rng.random((600, 1)) > p.cumsum(1)[:, :-1]).sum(1)
        ids = [f"{name}-{i}" for i in range(600)]
        Scores.from_logp(3 * logit, answer, ids=ids).save(place / f"{name}.safetensors")
        Scores.from_logp(logit, answer, ids=ids).save(place / f"{name}-base.safetensors")
    narrow = np.log([[0.9, 0.1]] * 3)
    Scores.from_logp(narrow, [0, 1, 0], ids=list("abc")).save(place / "two.safetensors")
    return place


@pytest.mark.parametrize("method", SCALERS)
def test_each_method_fits_applies_and_is_kept(folder, method):
    more = ("--reference", "fit-base.safetensors") if method == "daca" else ()
    out = f"{method}.safetensors"
    asked = ("rescale", "test.safetensors", "--fit-on", "fit.safetensors", "--method", method, *more, "--out", out)
    said = run(*asked, cwd=folder)
    assert said.startswith(f"{out}: {method}")
    assert said.endswith(f", fitted on fit.safetensors; kept in {method}.{method}.json\n")
    before, after = Scores.load(folder / "test.safetensors"), Scores.load(folder / out)
    assert nll(after.logp_NK, after.answer_N) < nll(before.logp_NK, before.answer_N) - 0.3
    kept = load_scaler(folder / f"{method}.{method}.json")
    assert after.provenance["scaler"] == kept.described()
    assert np.array_equal(kept.apply(before).logp_NK, after.logp_NK)
    again = run("rescale", "test.safetensors", "--scaler", f"{method}.{method}.json", "--out", "again", cwd=folder)
    assert again == f"again: rescaled by {method}.{method}.json ({method}, fitted on 600 questions)\n"
    assert (folder / "again").read_bytes() == (folder / out).read_bytes()


def test_without_a_method_it_is_one_temperature_as_ever(folder):
    said = run("rescale", "test.safetensors", "--fit", "fit.safetensors", "--out", "cool.safetensors", cwd=folder)
    kept = json.loads((folder / "cool.temperature.json").read_text())
    assert kept["name"] == "temperature"
    assert kept["temperature"] == pytest.approx(3, rel=0.15)
    assert f"temperature {kept['temperature']:.4f}, fitted on" in said


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--fit-on", "test.safetensors"), "used to fit"),
        (("--fit-on", "fit.safetensors", "--method", "vectr"), "did you mean 'vector'"),
        (("--fit-on", "fit.safetensors", "--method", "daca"), "no reference scores"),
        (("--fit-on", "fit.safetensors", "--reference", "fit-base.safetensors"), "does not use"),
        (("--fit-on", "fit.safetensors", "--method", "daca", "--reference", "test.safetensors"), "only in a"),
        ((), "neither --fit-on nor --scaler"),
        (("--fit-on", "fit.safetensors", "--scaler", "x.json"), "--scaler and what to fit on"),
        (("--scaler", "x.json"), "No such file"),
        (("--scaler", "x.json", "--method", "isotonic"), "no use for that"),
    ],
)
def test_bad_input_is_three_lines_and_nothing_is_written(folder, arguments, found):
    lines = run("rescale", "test.safetensors", *arguments, "--out", "never", cwd=folder, code=2).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["asked", "found", "to do"]
    assert found in lines[1]
    assert not (folder / "never").exists()


def test_a_temperature_at_the_end_of_its_range_is_warned_of(folder):
    Scores.from_probs([[0.6, 0.4]] * 40, [0] * 40, ids=[f"sure {i}" for i in range(40)]).save(folder / "right")
    out, err = called("rescale", "test.safetensors", "--fit-on", "right", "--out", "cold", cwd=folder)
    assert "stopped at 0.01, an end of its range: all answers fitted on are right" in err
    assert "temperature 0.0100" in out


@pytest.mark.parametrize("method", ["isotonic", "temperature"])
def test_a_fit_on_few_questions_is_warned_of(folder, method):
    Scores.from_probs([[0.9, 0.1], [0.6, 0.4]], [0, 1], ids=["one", "two"]).save(folder / "few")
    _, err = called("rescale", "test.safetensors", "--fit-on", "few", "--method", method, "--out", "n", cwd=folder)
    assert "warning: fitted on 2 questions only: what it learned may be chance" in err


def test_what_a_fit_left_out_and_why_it_stopped_is_said(folder):
    """Answers of probability 0, a model that is right where it is least sure, and a kept scaler at its end."""
    p = [[0.6, 0.4]] * 40 + [[1.0, 0.0]] * 10
    names = [f"sure {i}" for i in range(50)]
    Scores.from_probs(p, [0] * 26 + [1] * 24, ids=names).save(folder / "zeros")
    Scores.from_probs(p[:40], [1] * 30 + [0] * 10, ids=names[:40]).save(folder / "below")

    def said(*arguments):
        return warned(folder, "rescale", "test.safetensors", *arguments)

    assert "10 of the 50 questions fitted on were left out: their answer has probability 0" in said(
        "--fit-on", "zeros", "--out", "z"
    )
    assert "stopped at 100, an end of its range: on the questions" in said("--fit-on", "below", "--out", "b")
    assert "stopped at 100" in said("--scaler", "b.temperature.json", "--out", "b2")
    Scores.from_probs(p[:40], [0] * 40, ids=names[:40]).save(folder / "right")
    assert "stopped at 0.01" in said("--fit-on", "right", "--method", "adaptive", "--out", "a")
    Scores.from_probs([[0.5, 0.5]] * 40, [0] * 40, ids=names[:40]).save(folder / "even")
    daca = ("--fit-on", "right", "--reference", "even", "--method", "daca", "--out", "d")
    assert "the base model is all but without any preference" in said(*daca)


def test_files_that_differ_after_a_dot_keep_a_scaler_each(folder):
    for out in ("cft.seed0", "cft.seed1.scores"):
        said = run("rescale", "test.safetensors", "--fit-on", "fit.safetensors", "--out", out, cwd=folder)
        assert said.endswith(f"kept in {out.removesuffix('.scores')}.temperature.json\n")
    assert len(list(folder.glob("cft.seed?.temperature.json"))) == 2


def test_other_numbers_of_options_are_warned_of(folder):
    run("rescale", "test.safetensors", "--fit-on", "fit.safetensors", "--method", "vector", "--out", "v.a", cwd=folder)
    said = warned(folder, "rescale", "two.safetensors", "--scaler", "v.a.vector.json", "--out", "narrow")
    assert said.startswith("warning: the scaler 'vector' was fitted on questions of 4 options")
    wider = ("test.safetensors", "--fit-on", "two.safetensors", "--method", "dirichlet", "--out", "wide")
    assert "positions from 3 on take the mean of the others" in warned(folder, "rescale", *wider)
    assert (folder / "wide").exists()


def test_scores_of_another_model_or_rescaled_ones_are_warned_of(folder):
    fit, test = (Scores.load(folder / f"{name}.safetensors") for name in ("fit", "test"))

    def of(name, scores, **facts):
        replace(scores, provenance={**scores.provenance, **facts}).save(folder / name)

    of("a-fit", fit, model="a/model", weights="1", adapter=None)
    of("a-test", test, model="here/model", weights="1", adapter=None)
    of("b-test", test, model="b/model", weights="2", adapter="tuned")
    asked = ("rescale", "--fit-on", "a-fit", "--out")
    assert warned(folder, *asked, "a", "a-test") == ""  # the same weights under another name
    found = warned(folder, *asked, "b", "b-test")
    assert "model a/model where it was fitted, b/model here; weights 1 where" in found
    assert "adapter none where it was fitted, tuned here" in found
    assert warned(folder, "rescale", "b-test", "--scaler", "b.temperature.json", "--out", "again") == found
    assert "rescaled already where it is applied" in warned(folder, *asked, "twice", "a")
    of("c-test", test, model="a/model", weights="1", adapter=None, adapter_weights=None, quantized="nf4")
    of("c-fit", fit, model="a/model", weights="1", adapter=None, adapter_weights=None)
    asked = ("rescale", "--fit-on", "c-fit", "--out")
    assert "quantized none where it was fitted, nf4 here" in warned(folder, *asked, "c", "c-test")
    old = json.loads((folder / "c.temperature.json").read_text())
    (folder / "old.json").write_text(json.dumps({name: part for name, part in old.items() if name != "fitted_on"}))
    assert warned(folder, "rescale", "a", "--scaler", "old.json", "--out", "d") == ""  # which says nothing of it
