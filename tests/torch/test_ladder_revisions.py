"""A ladder on a hub repository whose stages of alignment are revisions."""

import numpy as np
import pytest
import torch

from calibrant.ladder import Ladder, read_table
from calibrant.ladder.bench import Bench
from calibrant.ladder.cells import Place
from calibrant.ladder.fixes import by_name
from calibrant.prompts import PromptStyle
from calibrant.scoring import score
from calibrant.tuning import TuneConfig, interpolate

CONFIG = TuneConfig.make({"epochs": 1, "batch_size": 8, "lora": {"rank": 2, "alpha": 4}})
CPU = {"device": "cpu"}


@pytest.fixture
def stages(hub, tmp_path, make_model, tokenizer):
    """Two models as revisions of one repository: ``main``, and ``dpo`` with a head of twice the weight."""
    folders = {}
    for name, factor in (("main", 1.0), ("dpo", 2.0)):
        model = make_model("llama", tokenizer)
        with torch.no_grad():
            model.lm_head.weight.mul_(factor)
        folders[name] = tmp_path / name
        model.save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    hub("owner/model", {"a" * 40: ("main", folders["main"]), "b" * 40: ("dpo", folders["dpo"])})
    return folders


def test_the_reference_in_the_same_repository_is_its_main_revision_and_the_mixture_is_of_both(
    stages, make_questions, tmp_path
):
    splits = {name: make_questions(name, n) for name, n in (("train", 16), ("calibration", 20), ("test", 12))}
    fixes = ["pre-alignment", "interpolation"]
    loading = {"revision": "dpo", **CPU}
    climb = Ladder(
        "owner/model", splits, tmp_path / "out", reference="owner/model", fixes=fixes, budget="quick", seeds=1,
        config=CONFIG, loading=loading,
    )  # fmt: skip
    climb.run()
    assert {one.fix.name: one.state for one in read_table(climb.out, n_boot=50).fixes} == dict.fromkeys(
        ("aligned", *fixes), "complete"
    )
    mixed = interpolate(stages["main"], stages["dpo"], 0.5, tmp_path / "mixed")
    for name, folder in (("aligned", stages["dpo"]), ("pre-alignment", stages["main"]), ("interpolation", mixed)):
        place = Place(tmp_path / "out", by_name(name))
        kept = place.cell(place.chosen, 0).scores("test")
        np.testing.assert_allclose(kept.logp_NK, score(folder, splits["test"], **CPU).logp_NK, atol=1e-5)


def test_one_model_by_two_names_of_its_part_is_loaded_for_each(stages, make_questions, tmp_path):
    questions = make_questions("q", 6)
    bench = Bench(
        tmp_path / "out", "owner/model", questions, questions, PromptStyle(), CONFIG, reference="owner/model",
        loading={"revision": "dpo", **CPU},
    )  # fmt: skip
    assert bench.load().facts["revision"] == "b" * 40
    assert bench.load() is bench.load()
    assert bench.load("owner/model").facts["revision"] == "a" * 40
