"""Where the answer slot is, and which tokens stand for each option there."""

import re
from pathlib import Path

import pytest

import calibrant
from calibrant.errors import ModelError, QuestionError
from calibrant.prompts import LETTERS, PromptStyle
from calibrant.questions import Question
from calibrant.scoring.options import encode

CAPITAL = Question("q", "Capital of France?", ("Lyon", "Paris"), 1)
TEXTS = PromptStyle(reading="continuation")


def of_k(k):
    return Question(f"of-{k}", "Which?", tuple(f"choice {i}" for i in range(k)), 0)


def ids(tokenizer, text):
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_option_is_what_follows_the_prompts_own_tokens(tokenizer):
    (e,) = encode(tokenizer, [CAPITAL], TEXTS)
    assert e.prompt == (0, *ids(tokenizer, "Question: Capital of France?\nAnswer:"))
    assert e.options == ((ids(tokenizer, " Lyon"),), (ids(tokenizer, " Paris"),))
    assert tokenizer.decode(e.prompt[1:]) == "Question: Capital of France?\nAnswer:"
    assert e.n_chars == (4, 5)
    assert e.n_tokens == len(e.prompt) + max(len(o[0]) for o in e.options)


def test_letter_has_its_spaced_and_its_bare_alias(tokenizer):
    (e,) = encode(tokenizer, [CAPITAL], PromptStyle())
    assert e.options == ((ids(tokenizer, " A"), ids(tokenizer, "A")), (ids(tokenizer, " B"), ids(tokenizer, "B")))
    assert all(len(alias) == 1 for aliases in e.options for alias in aliases)


def test_tokenizer_that_merges_colon_and_letter_keeps_the_prompt_and_the_slot(make_merging_tokenizer):
    merging = make_merging_tokenizer([(":", "A"), (":", "B"), ("Ġ", "A"), ("Ġ", "B")])
    prompt_text = PromptStyle().render(CAPITAL).prompt
    assert ids(merging, prompt_text + "A")[-1] == merging.convert_tokens_to_ids(":A")  # the trap is there
    (e,) = encode(merging, [CAPITAL], PromptStyle())
    assert e.prompt == ids(merging, prompt_text)
    assert merging.convert_ids_to_tokens(e.prompt[-1]) == ":"
    tokens = [[merging.convert_ids_to_tokens(list(alias)) for alias in aliases] for aliases in e.options]
    assert tokens == [[["ĠA"], ["A"]], [["ĠB"], ["B"]]]


def test_continuation_that_would_merge_into_the_prompt_leaves_the_prompt_alone(make_merging_tokenizer):
    merging = make_merging_tokenizer([(":", "Ġ")])
    (e,) = encode(merging, [CAPITAL], TEXTS)
    assert e.prompt == ids(merging, TEXTS.render(CAPITAL).prompt)
    assert e.options == ((ids(merging, " Lyon"),), (ids(merging, " Paris"),))


def test_alias_of_two_tokens_is_left_out_when_another_is_one(make_merging_tokenizer):
    (e,) = encode(make_merging_tokenizer([("Ġ", "A")]), [CAPITAL], PromptStyle())  # " B" stays Ġ + B
    assert [[len(alias) for alias in aliases] for aliases in e.options] == [[1, 1], [1]]


def test_letter_of_two_tokens_names_them_and_the_way_out():
    class Splitting:
        """A tokenizer in front of which every letter falls into two."""

        eos_token_id, chat_template = 1, None

        def __call__(self, texts, **_):
            return {"input_ids": [[2, *(t for c in text for t in (ord(c), 1000))] for text in texts]}

        def convert_ids_to_tokens(self, tokens):
            return [f"<{t}>" for t in tokens]

    with pytest.raises(ModelError) as raised:
        encode(Splitting(), [CAPITAL], PromptStyle())
    assert "' A'" in raised.value.asked
    assert "<32>" in raised.value.found
    assert "<65>" in raised.value.found
    assert "continuation" in raised.value.todo


def test_two_options_on_one_token_are_refused(make_merging_tokenizer):
    letterless = make_merging_tokenizer([], missing=("C", "D"))  # C and D both become <unk>
    three = of_k(4)
    with pytest.raises(ModelError, match="options 2 and 3 are both token 3"):
        encode(letterless, [three], PromptStyle())


def test_start_token_stands_once_at_the_front(tokenizer):
    for style in (PromptStyle(), TEXTS, PromptStyle(format="release"), PromptStyle(format="chat")):
        (e,) = encode(tokenizer, [CAPITAL], style)
        assert e.prompt[0] == 0
        assert e.prompt.count(0) == 1
        assert all(0 not in alias for aliases in e.options for alias in aliases)


def test_tokenizer_that_closes_texts_leaves_no_end_token_before_the_answer(make_tokenizer):
    plain, closing = make_tokenizer(), make_tokenizer(eos_at_end=True)
    assert closing("x")["input_ids"][-1] == closing.eos_token_id
    for style in (PromptStyle(), TEXTS):
        (wanted,) = encode(plain, [CAPITAL], style)
        (found,) = encode(closing, [CAPITAL], style)
        assert found == wanted


def test_chat_slot_is_right_after_the_assistants_header(tokenizer):
    (e,) = encode(tokenizer, [CAPITAL], PromptStyle(format="chat", system="Be brief."))
    text = tokenizer.decode(e.prompt)
    assert text.startswith("<s><|system|>\nBe brief.\n<|user|>\nCapital of France?\nA. Lyon\nB. Paris\n")
    assert text.endswith("<|assistant|>\n")
    assert e.options[0][0] == ids(tokenizer, "A")


def test_chat_with_a_prefix_starts_the_assistants_turn_with_it(tokenizer):
    (e,) = encode(tokenizer, [CAPITAL], PromptStyle(format="chat-prefix"))
    assert tokenizer.decode(e.prompt).endswith("<|assistant|>\nAnswer:")
    assert e.options[0][0] == ids(tokenizer, " A")


def test_chat_without_a_template_is_an_error_in_three_parts(make_tokenizer):
    with pytest.raises(ModelError, match="no chat template") as raised:
        encode(make_tokenizer(chat=False), [CAPITAL], PromptStyle(format="chat"))
    assert "--format raw" in raised.value.todo


def test_question_longer_than_the_context_names_itself_and_the_tokens(tokenizer):
    (e,) = encode(tokenizer, [CAPITAL], TEXTS)
    assert encode(tokenizer, [CAPITAL], TEXTS, context_length=e.n_tokens) == [e]
    with pytest.raises(QuestionError, match=f"'q'.*context of {e.n_tokens - 1} tokens"):
        encode(tokenizer, [CAPITAL], TEXTS, context_length=e.n_tokens - 1)


@pytest.mark.parametrize(
    "style", [PromptStyle(), TEXTS, PromptStyle(format="chat")], ids=lambda s: s.reading + s.format
)
def test_two_to_twenty_six_options_mixed_in_one_call(tokenizer, style):
    questions = [of_k(k) for k in (2, 26, 3, 25)]
    encoded = encode(tokenizer, questions, style)
    assert [len(e.options) for e in encoded] == [2, 26, 3, 25]
    assert len({alias for aliases in encoded[1].options for alias in aliases}) == sum(map(len, encoded[1].options))
    if style.reading == "letters":
        spaced = " " if style.format == "raw" else ""
        assert [aliases[0] for aliases in encoded[1].options] == [ids(tokenizer, spaced + c) for c in LETTERS]


def test_unconditional_prompt_leaves_the_question_out(tokenizer):
    (e,) = encode(tokenizer, [CAPITAL], TEXTS)
    assert tokenizer.decode(e.without_question().prompt) == "<s>Answer:"
    assert e.without_question().options == e.options


def test_no_source_file_reads_logits_at_a_fixed_position_from_the_end():
    package = Path(calibrant.__file__).parent
    for path in [*package.glob("scoring/*.py"), *package.glob("tuning/*.py")]:
        assert not re.search(r"\[[^\]\n]*-2\b[^\]\n]*\]", path.read_text()), path.name
