"""The whole alignment check on tiny models: known answers, going on, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from peft import PeftModel

from calibrant.alignment import AlignSettings, align_check, load_preferences, load_prompts
from calibrant.alignment import run as run_module
from calibrant.alignment.encoding import Encoder
from calibrant.alignment.preferences import PairLogps
from calibrant.errors import ConfigError, ModelError, QuestionError
from calibrant.scoring.models import load_model, quiet_peft
from calibrant.tuning import tune

PROMPT = [{"prompt": "Capital of Chile?"}]
SHORT = AlignSettings(max_new_tokens=6, instructions=False, n_boot=100)


def test_an_adapter_of_zeros_changes_nothing(model_folder, make_adapter, pairs, prompts, tmp_path):
    settings = AlignSettings(max_new_tokens=6, contexts=("aligned", "tuned"), n_boot=100)
    found = align_check(
        model_folder(),
        adapter=make_adapter(0.0),
        preferences=pairs,
        prompts=prompts,
        settings=settings,
        out=tmp_path / "run",
        device="cpu",
    )
    p, d = found.preferences, found.drift
    assert (p.margin.value, p.margin.low, p.margin.high, p.share_against.value) == (0, 0, 0, 0)
    assert p.ranking.aligned == p.ranking.tuned
    assert (p.n, p.n_prompts) == (5, 4)
    assert [(k.contexts, k.kl.value, k.kl.high, k.agreement.value) for k in found.divergence] == [
        ("aligned", 0, 0, 1),
        ("tuned", 0, 0, 1),
    ]
    assert (d.identical.value, d.relative_length.value) == (1, 0)
    assert found.instructions.followed.change.value == 0
    assert found.verdict == "undecided"  # five pairs decide nothing
    by_name = {c.name: c for c in found.checks}
    assert by_name["margin"].n_needed == 30
    assert by_name["kl_aligned"].change.n == 5


def test_adapter_switched_off_merged_and_loaded_apart_agree(
    model_folder, make_adapter, pairs, prompts, own_logp, tmp_path
):
    """Base and adapter from the same weights, against two models in memory, one with the adapter merged."""
    adapter, merged = make_adapter(0.2), tmp_path / "merged"
    base = load_model(model_folder(), device="cpu")
    with quiet_peft():
        PeftModel.from_pretrained(base.model, adapter).merge_and_unload().save_pretrained(merged)
    base.tokenizer.save_pretrained(merged)
    common = {"preferences": pairs, "prompts": prompts, "settings": SHORT, "device": "cpu"}
    one = align_check(model_folder(), adapter=adapter, out=tmp_path / "a", **common)
    two = align_check(model_folder(), tuned=merged, out=tmp_path / "b", **common)
    a, b = (PairLogps.load(tmp_path / name / "preferences.jsonl").logp_P2 for name in "ab")
    np.testing.assert_allclose(a["aligned"], b["aligned"], atol=1e-3)
    np.testing.assert_allclose(a["tuned"], b["tuned"], atol=1e-3)
    assert np.abs(a["tuned"] - a["aligned"]).max() > 0.1
    assert one.divergence[0].kl.value == pytest.approx(two.divergence[0].kl.value, rel=1e-3)
    assert one.divergence[0].kl.value > 0.01
    encoded = [Encoder(base.tokenizer).pair(p) for p in pairs.items]
    fresh = load_model(model_folder(), device="cpu").model
    assert a["aligned"][3, 1] == pytest.approx(own_logp(fresh, encoded[3].prompt, encoded[3].options[1][0]), abs=2e-3)


def test_a_reference_adds_the_reward_of_dpo(model_folder, make_adapter, pairs, scaled, own_logp, tmp_path):
    """With the aligned model itself as reference, tuned's reward is the margin; aligned's is nowhere above 0."""
    common = {"adapter": make_adapter(0.2), "preferences": pairs, "settings": SHORT, "device": "cpu"}
    found = align_check(model_folder(), reference=model_folder(), out=tmp_path / "a", **common).preferences
    assert found.reward.tuned.value == pytest.approx(1 - found.share_against.value)
    assert found.reward.aligned.value == 0
    align_check(model_folder(), reference=scaled, out=tmp_path / "b", **common)
    logp = PairLogps.load(tmp_path / "b" / "preferences.jsonl").logp_P2
    encoder = Encoder(load_model(scaled, device="cpu").tokenizer)
    e = encoder.pair(pairs.items[0])
    expected = own_logp(load_model(scaled, device="cpu").model, e.prompt, e.options[0][0])
    assert logp["reference"][0, 0] == pytest.approx(expected, abs=2e-3)


def test_a_run_goes_on_where_it_stopped_and_refuses_another(
    model_folder, make_adapter, pairs, prompts, tmp_path, monkeypatch
):
    adapter, out = make_adapter(0.2), tmp_path / "run"
    common = {"adapter": adapter, "preferences": pairs, "prompts": prompts, "out": out, "device": "cpu"}
    first = align_check(model_folder(), settings=SHORT, **common)
    kept = {p.name for p in out.iterdir()}
    assert {"preferences.jsonl", "answers.jsonl", "divergence-aligned.jsonl", "alignment.json", "alignment.txt"} <= kept
    assert json.loads((out / "alignment.json").read_text()) == json.loads(json.dumps(first.to_json()))
    (out / "divergence-aligned.jsonl").unlink()
    calls = []

    def counted(*args, **kwargs):
        calls.append(args)
        return load_model(*args, **kwargs)

    monkeypatch.setattr("calibrant.alignment.models.load_model", counted)
    assert align_check(model_folder(), settings=SHORT, **common).to_json() == first.to_json()
    assert len(calls) == 1  # one part was missing
    assert align_check(model_folder(), settings=SHORT, **common).to_json() == first.to_json()
    assert len(calls) == 1  # nothing was
    doubled = AlignSettings(beta=0.2, max_new_tokens=6, instructions=False, n_boot=100)
    again = align_check(model_folder(), settings=doubled, **common)
    assert again.preferences.margin.value == pytest.approx(2 * first.preferences.margin.value)
    with pytest.raises(ConfigError, match="different max_new_tokens"):
        align_check(model_folder(), settings=AlignSettings(max_new_tokens=7), **common)


def test_the_aligned_side_is_taken_from_another_check_of_the_same_and_of_no_other(
    model_folder, make_adapter, pairs, prompts, tmp_path, monkeypatch
):
    common = {"preferences": pairs, "prompts": prompts, "device": "cpu"}
    one, two = make_adapter(0.2), make_adapter(0.1)
    align_check(model_folder(), adapter=one, out=tmp_path / "one", settings=SHORT, **common)
    apart = align_check(model_folder(), adapter=two, out=tmp_path / "apart", settings=SHORT, **common)
    asked, real = [], run_module.generate
    monkeypatch.setattr(run_module, "generate", lambda *args, **more: asked.append(args) or real(*args, **more))
    found = align_check(
        model_folder(), adapter=two, out=tmp_path / "two", settings=SHORT, aligned_from=tmp_path / "one", **common
    )
    assert len(asked) == 1
    assert found.to_json() == apart.to_json()
    for name in ("preferences.jsonl", "answers.jsonl"):
        assert (tmp_path / "two" / name).read_text() == (tmp_path / "apart" / name).read_text()
    other = AlignSettings(max_new_tokens=5, instructions=False, n_boot=100)
    for more, why in (
        ({"settings": other}, "max_new_tokens"),
        ({"settings": SHORT, "prompts": load_prompts(PROMPT)}, "prompts"),
        ({"settings": SHORT, "aligned_from": tmp_path / "none"}, "JSON from"),
    ):
        with pytest.raises(ConfigError, match=why):
            align_check(
                model_folder(),
                **{**common, "aligned_from": tmp_path / "one", **more},
                adapter=two,
                out=tmp_path / "three",
            )
    assert not (tmp_path / "three").exists()


def test_another_chat_template_is_another_check(model_folder, make_adapter, pairs, tmp_path):
    """The pairs are put in the template: what was measured under another one is of other texts."""
    model = shutil.copytree(model_folder(), tmp_path / "model")
    common = {"adapter": make_adapter(0.2), "preferences": pairs, "settings": SHORT, "device": "cpu"}
    align_check(model, out=tmp_path / "one", **common)
    template = model / "chat_template.jinja"
    template.write_text("Hear! " + template.read_text())
    for more in ({"out": tmp_path / "one"}, {"out": tmp_path / "two", "aligned_from": tmp_path / "one"}):
        with pytest.raises(ConfigError, match="with a different chat_template"):
            align_check(model, **more, **common)


def test_the_aligned_side_in_another_precision_is_another(model_folder, make_adapter, pairs, tmp_path):
    """``dtype="auto"`` is float32 here and bfloat16 on a GPU, under the same name."""
    common = {"adapter": make_adapter(0.2), "preferences": pairs, "settings": SHORT}
    align_check(model_folder(), out=tmp_path / "one", device="cpu", **common)
    kept = tmp_path / "one" / "run.json"
    run = json.loads(kept.read_text())
    assert (run["dtype"], run["quantized"]) == ("float32", None)
    kept.write_text(json.dumps(run | {"dtype": "bfloat16"}))  # all that such a run would keep of it
    for more in ({"out": tmp_path / "one"}, {"out": tmp_path / "two", "aligned_from": tmp_path / "one"}):
        with pytest.raises(ConfigError, match="with a different dtype"):
            align_check(model_folder(), device="cpu", **more, **common)
    kept.write_text(json.dumps({name: value for name, value in run.items() if name != "dtype"}))  # an older one
    with pytest.raises(ConfigError, match="with a different dtype"):
        align_check(model_folder(), device="cpu", out=tmp_path / "two", aligned_from=tmp_path / "one", **common)
    align_check(model_folder(), out=tmp_path / "half", device="cpu", dtype="bfloat16", **common)
    assert json.loads((tmp_path / "half" / "run.json").read_text())["dtype"] == "bfloat16"


def test_what_does_not_fit_is_left_out_by_name(model_folder, make_adapter, pairs, prompts, tmp_path):
    rows = [{"prompt": p.prompt.text, "chosen": p.chosen, "rejected": p.rejected} for p in pairs.items]
    texts = [{"prompt": p.text} for p in prompts.items]
    long = {"id": "long", "prompt": "word " * 600, "chosen": "a", "rejected": "b"}
    found = align_check(
        model_folder(),
        adapter=make_adapter(0.1),
        preferences=load_preferences([*rows, long]),
        prompts=load_prompts([*texts, {"id": "far", "prompt": "word " * 600}]),
        settings=SHORT,
        out=tmp_path / "run",
        device="cpu",
    )
    assert found.preferences.n == 5
    assert [note for note in found.notes if "'long'" in note and "512 fit" in note]
    assert [note for note in found.notes if "'far'" in note and "506 fit" in note]
    with pytest.raises(QuestionError, match="none of 1"):
        align_check(
            model_folder(),
            adapter=make_adapter(0.1),
            preferences=load_preferences([long]),
            settings=SHORT,
            out=tmp_path / "other",
            device="cpu",
        )


def test_models_of_other_words_are_refused(model_folder, make_tokenizer, make_model, pairs, tmp_path):
    other = make_tokenizer()
    other.add_tokens(["[new]"])
    stranger = tmp_path / "stranger"
    vocabulary = {**other.get_vocab()}
    assert max(vocabulary.values()) >= 320
    make_model("llama", other).save_pretrained(stranger)
    other.save_pretrained(stranger)
    with pytest.raises(ModelError, match="rows for"):
        align_check(stranger, tuned=model_folder(), preferences=pairs, settings=SHORT, out=tmp_path / "a", device="cpu")


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({}, "neither an adapter nor tuned weights"),
        ({"adapter": "a", "tuned": "b"}, "an adapter and tuned weights"),
        ({"adapter": "a", "settings": AlignSettings(instructions=False)}, "nothing to measure"),
        ({"adapter": "a", "reference": "r"}, "reference model without preference pairs"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_loaded(arguments, found, tmp_path):
    with pytest.raises(ConfigError, match=found):
        align_check("no-model-is-read", out=tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("settings", [{"contexts": ("base",)}, {"beta": 0}, {"max_new_tokens": 0}, {"temperature": -1}])
def test_settings_without_a_meaning_are_refused(settings):
    with pytest.raises(ConfigError):
        AlignSettings(**settings)


def test_sampled_contexts_are_another_distribution(model_folder, make_adapter, prompts, tmp_path):
    common = {"adapter": make_adapter(0.2), "prompts": prompts, "device": "cpu"}
    greedy = align_check(model_folder(), settings=SHORT, out=tmp_path / "a", **common)
    settings = AlignSettings(max_new_tokens=6, temperature=1.0, instructions=False, n_boot=100)
    sampled = align_check(model_folder(), settings=settings, out=tmp_path / "b", **common)
    assert sampled.divergence[0].temperature == 1.0
    assert sampled.divergence[0].kl.value != greedy.divergence[0].kl.value
    assert sampled.drift == greedy.drift


def test_tuning_then_checking(model_folder, make_questions, prompts, pairs, tmp_path):
    """A real adapter of the package's own tuning."""
    from calibrant.tuning import LoraSettings, TuneConfig

    config = TuneConfig(epochs=2, learning_rate=1e-2, lora=LoraSettings(rank=4, alpha=8), batch_size=8, patience=0)
    done = tune(
        model_folder(),
        make_questions("train", 24),
        make_questions("held", 8),
        out=tmp_path / "tuned",
        config=config,
        device="cpu",
    )
    found = align_check(
        model_folder(),
        adapter=done.adapter,
        preferences=pairs,
        prompts=prompts,
        settings=SHORT,
        out=tmp_path / "run",
        device="cpu",
    )
    assert found.divergence[0].kl.low > 0
    assert found.preferences.movement.chosen.value != 0
