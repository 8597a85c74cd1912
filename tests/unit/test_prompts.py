"""The text of every style, to the letter."""

import pytest

from calibrant import PromptStyle, Question
from calibrant.errors import ConfigError, ModelError
from calibrant.prompts import ChatTemplate

Q = Question("1", "2 + 2 = ?", ("3", "4", "5"), 1)


def turns(messages):
    return "".join(f"<{m['role']}>{m['content']}</{m['role']}>" for m in messages) + "<assistant>"


template = ChatTemplate(turns)


def test_the_releases_prompt():
    r = PromptStyle(format="release").render(Q)
    assert r.prompt == (
        "### Question: Question: 2 + 2 = ?\n\nOptions:\nA. 3\nB. 4\nC. 5\n\nAnswer with only a single letter:\n ### Answer:"
    )
    assert r.options == ((" A", "A"), (" B", "B"), (" C", "C"))


def test_raw_prompts_end_without_space_and_the_space_belongs_to_the_option():
    letters, texts = PromptStyle().render(Q), PromptStyle(reading="continuation").render(Q)
    assert letters.prompt == "Question: 2 + 2 = ?\nA. 3\nB. 4\nC. 5\nAnswer:"
    assert texts.prompt == "Question: 2 + 2 = ?\nAnswer:"
    assert texts.options == ((" 3",), (" 4",), (" 5",))
    assert texts.unconditional == "Answer:"
    assert letters.special_tokens


def test_chat_puts_the_answer_at_the_start_of_the_turn_and_chat_prefix_after_the_cue():
    chat = PromptStyle(format="chat", system="Be brief.").render(Q, template)
    assert chat.prompt.startswith("<system>Be brief.</system><user>2 + 2 = ?\nA. 3\n")
    assert chat.prompt.endswith("</user><assistant>")
    assert chat.options[0] == ("A", " A")
    assert not chat.special_tokens  # the template brings its own
    prefixed = PromptStyle(format="chat-prefix", reading="continuation").render(Q, template)
    assert prefixed.prompt == "<user>2 + 2 = ?</user><assistant>Answer:"
    assert prefixed.options == ((" 3",), (" 4",), (" 5",))


def test_twenty_six_letters():
    q = Question("1", "which?", tuple(f"option {i}" for i in range(26)), 25)
    r = PromptStyle().render(q)
    assert r.prompt.endswith("Z. option 25\nAnswer:")
    assert r.options[25] == (" Z", "Z")


@pytest.mark.parametrize(
    "wrong",
    [
        {"reading": "letter"},
        {"format": "markdown"},
        {"reading": "letters", "variant": "per_char"},
        {"reading": "continuation", "format": "release"},
        {"format": "raw", "system": "hello"},
    ],
)
def test_styles_without_meaning_are_refused(wrong):
    with pytest.raises(ConfigError, match="to do:"):
        PromptStyle(**wrong)


def test_a_chat_format_without_a_template_says_what_to_do():
    with pytest.raises(ModelError, match="--format raw"):
        PromptStyle(format="chat").render(Q)


def test_the_digest_tells_styles_apart():
    styles = [
        PromptStyle(),
        PromptStyle(format="chat"),
        PromptStyle(format="release"),
        PromptStyle(reading="continuation"),
    ]
    assert len({s.digest for s in styles}) == len(styles)
    assert PromptStyle().digest == PromptStyle().digest


@pytest.mark.parametrize("style", [PromptStyle(), PromptStyle(format="release"), PromptStyle(reading="continuation")])
def test_white_space_around_texts_is_no_part_of_them(style):
    """Cells of tables end in blanks; an option's one leading space is the prompt's own."""
    spaced = Question("q", " Capital of France?\n", ("Lyon ", "\tParis"), 1)
    assert style.render(spaced) == style.render(Question("q", "Capital of France?", ("Lyon", "Paris"), 1))
