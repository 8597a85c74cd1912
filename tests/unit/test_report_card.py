"""The model card: front matter that hubs read, and the report's numbers."""

import numpy as np
import pytest
import yaml

from calibrant.errors import ConfigError
from calibrant.metrics import measure
from calibrant.reporting import Domain, model_card
from calibrant.scalers import Temperature
from calibrant.scores import Scores

BOOT = 100


def world(n=200, sharpen=4.0):
    rng = np.random.default_rng(0)
    logit = rng.normal(size=(n, 4)) * 1.3
    p = np.exp(logit) / np.exp(logit).sum(1, keepdims=True)
    answer = (rng.random((n, 1)) > p.cumsum(1)).sum(1).clip(0, 3)
    return Scores.from_logp(sharpen * logit, answer), Scores.from_logp(logit, answer)


def card(model="owner/name", **tuning):
    sick, cured = world()
    return model_card(
        [Domain("quiz", True, sick, cured)],
        tuning={"objective": "cft", "adapter": "run/adapter", "seconds": 65.0, **tuning},
        asked={"model": model, "seed": 3, "date": "2026-01-02"},
        n_boot=BOOT,
    )


def front_matter(text):
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_front_matter_names_base_model_and_library():
    head, body = front_matter(card())
    assert head == {
        "library_name": "peft",
        "base_model": "owner/name",
        "pipeline_tag": "text-generation",
        "tags": ["calibration", "calibrant", "cft"],
    }
    assert body.lstrip().startswith("# owner/name, tuned by CFT\n")


@pytest.mark.parametrize(
    "model",
    ["/home/me/model", "./model", "~/model", "models/a/b", "m.gguf", "my model/x", "models/tulu", "runs/x.gguf"],
)
def test_a_local_base_model_is_no_hub_id(model, tmp_path, monkeypatch):
    (tmp_path / "models" / "tulu").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "base_model" not in front_matter(card(model))[0]


def test_full_fine_tuning_is_a_model_of_transformers():
    head, body = front_matter(card(adapter=None, weights="run/model"))
    assert head["library_name"] == "transformers"
    assert "A fine-tuned model" in body
    assert "peft" not in body


def test_the_card_holds_before_and_after_with_intervals_and_floors():
    sick, cured = world()
    text = card()
    for scores in (sick, cured):
        e = measure(scores, n_boot=BOOT)["conf_ece"]
        assert (
            f"**{e.value:.3f}** ({e.low:.3f} to {e.high:.3f}); chance {e.floor_mean:.3f}, up to {e.floor_p95:.3f}"
            in text
        )
    for wanted in (
        "**Calibration restored.**",
        "65 s",
        "Date: 2026-01-02",
        "## Limits",
        "```python\n",
        "PeftModel",
    ):
        assert wanted in text, wanted
    assert "None" not in text


def test_a_card_needs_scores_after_the_tuning():
    with pytest.raises(ConfigError, match="before and after"):
        model_card([Domain("quiz", True, world()[0])], tuning={"objective": "cft"})


def test_numbers_that_need_the_temperature_say_so():
    scaler = Temperature().fit(world()[0]).to_json()
    assert "After tuning and one temperature, it said" in card(temperature=scaler)
    assert "After tuning, it said" in card()
