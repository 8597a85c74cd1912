"""Preference pairs and prompts from every layout that people have, and a named reason for every row that is none."""

import gzip
import json

import pytest

from calibrant.alignment.data import Turn, load_preferences, load_prompts
from calibrant.errors import QuestionError

PAIR = {"id": "p1", "prompt": "Up?", "chosen": "Yes.", "rejected": "No."}


def messages(*contents):
    return [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]


def test_jsonl_gz_csv_and_parquet_give_the_same_pairs(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [PAIR, {"id": "p2", "prompt": "2+2?\nSay it.", "chosen": "4, of course", "rejected": "5"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    cells = 'id,prompt,chosen,rejected\np1,Up?,Yes.,No.\np2,"2+2?\nSay it.","4, of course",5\n'
    (tmp_path / "c.csv").write_text(cells)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "d.parquet")
    found = [load_preferences(tmp_path / name) for name in ("a.jsonl", "b.jsonl.gz", "c.csv", "d.parquet")]
    assert [f.name for f in found] == ["a", "b", "c", "d"]
    assert all(f.items == found[0].items for f in found)
    assert found[0].items[1].chosen == "4, of course"
    assert len({f.digest for f in found}) == 1


def test_a_saved_data_set_with_columns_mapped(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {"query": ["Up?", "Down?"], "better": ["yes", "no"], "worse": ["no", "yes"]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "set")
    columns = {"prompt": "query", "chosen": "better", "rejected": "worse"}
    pairs = load_preferences(tmp_path / "set", columns=columns).items
    assert [(p.id, p.prompt.text, p.chosen, p.rejected) for p in pairs] == [
        ("set-1", "Up?", "yes", "no"),
        ("set-2", "Down?", "no", "yes"),
    ]


def test_a_transcript_becomes_a_conversation():
    """Human and Assistant in turn, as in the HH sets; words of theirs inside a line are not turns."""
    text = "Human: Hi, Human: is a word\n\nAssistant: Yes?\n\nsecond paragraph\n\nHuman: Bye\n\nAssistant:"
    (pair,) = load_preferences([{**PAIR, "prompt": text}]).items
    assert pair.prompt.turns == (
        Turn("user", "Hi, Human: is a word"),
        Turn("assistant", "Yes?\n\nsecond paragraph"),
        Turn("user", "Bye"),
    )
    assert pair.prompt.text == text


@pytest.mark.parametrize(
    "text", ["Human: two in a row\n\nHuman: again\n\nAssistant:", "Human: no cue", "Say Assistant:"]
)
def test_what_is_no_whole_transcript_stays_one_message(text):
    (prompt,) = load_prompts([{"prompt": text}]).items
    assert prompt.turns == (Turn("user", text),)


def test_two_transcripts_without_a_prompt_column_share_their_beginning():
    start = "\n\nHuman: Hello\n\nAssistant: Hi\n\nHuman: Up?\n\nAssistant:"
    (pair,) = load_preferences([{"chosen": f"{start} Yes.", "rejected": f"{start} No."}]).items
    assert (pair.chosen, pair.rejected) == (" Yes.", " No.")
    assert [t.content for t in pair.prompt.turns] == ["Hello", "Hi", "Up?"]


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": messages("Up?", "Yes."), "rejected": messages("Up?", "No.")},
        {"prompt": messages("Up?"), "chosen": messages("", "Yes.")[1:], "rejected": messages("", "No.")[1:]},
        {"prompt": "Up?", "chosen": messages("Up?", "Yes."), "rejected": messages("Up?", "No.")},
    ],
)
def test_conversational_lists_with_implicit_and_explicit_prompt(row):
    (pair,) = load_preferences([row]).items
    assert (pair.prompt.turns, pair.prompt.text, pair.chosen, pair.rejected) == (
        (Turn("user", "Up?"),),
        "Up?",
        "Yes.",
        "No.",
    )


@pytest.mark.parametrize("asked", ["Up?\n", " Up?", "Up?"])
def test_a_prompt_with_white_space_around_it_is_the_one_of_its_messages(asked):
    """As in UltraFeedback's binarised pairs: the prompt as text, and again as the last of the user's turns."""
    start = [{"role": "system", "content": "Be brief."}, *messages(asked)]
    row = {"prompt": asked, **{n: [*start, {"role": "assistant", "content": n}] for n in ("chosen", "rejected")}}
    (pair,) = load_preferences([row]).items
    assert pair.prompt.turns == (Turn("system", "Be brief."), Turn("user", asked))
    with pytest.raises(QuestionError, match="not how both conversations begin"):
        load_preferences([{**row, "prompt": "Down?"}])
    with pytest.raises(QuestionError, match="not how both conversations begin"):
        load_preferences([{**row, "prompt": [{"role": "system", "content": asked}, *messages(asked)]}])


def test_a_system_message_in_a_column_goes_before_the_prompt():
    """As in Intel's pairs of OpenOrca."""
    asked = (Turn("system", "Answer in JSON."), Turn("user", "Up?"))
    said = {name: [*messages("Up?"), {"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    rows = [{**PAIR, "prompt": None, "question": "Up?"}, {**PAIR, "prompt": messages("Up?")}, {**PAIR, **said}]
    for row in rows:
        (pair,) = load_preferences([{**row, "system": " Answer in JSON.\n"}]).items
        assert pair.prompt.turns == asked
        assert pair.prompt.text == "Answer in JSON.\n\nHuman: Up?\n\nAssistant:"
        (pair,) = load_preferences([{**row, "system": ""}]).items
        assert pair.prompt.turns == asked[1:]
        assert pair.prompt.text == "Up?"
    own = [{"role": "system", "content": "Be brief."}, *messages("Up?")]
    assert load_prompts([{"prompt": own, "system": "Be brief."}]).items[0].turns[0] == Turn("system", "Be brief.")
    assert load_prompts([{"prompt": own, "system": "gpt-4"}]).items[0].turns[0] == Turn("system", "Be brief.")


def test_the_input_of_an_instruction_is_part_of_the_prompt():
    """As in Alpaca's sets; two rows with one instruction are two prompts."""
    rows = [{"instruction": "Find the odd one.", "input": text} for text in ("Ada, Bob, 7", "1, 2, x", "")]
    texts = [p.text for p in load_prompts(rows).items]
    assert texts == ["Find the odd one.\n\nAda, Bob, 7", "Find the odd one.\n\n1, 2, x", "Find the odd one."]
    assert load_prompts([{"prompt": "Up?", "input": "of no prompt"}]).items[0].text == "Up?"
    assert load_prompts([{"prompt": "Up?", "instruction": "Up?", "input": "of none"}]).items[0].text == "Up?"
    for asked in ("Sum.", "Sum.\n\n1, 2"):  # messages hold the whole of what was asked
        sides = {n: [*messages(asked), {"role": "assistant", "content": n}] for n in ("chosen", "rejected")}
        (pair,) = load_preferences([{"instruction": "Sum.", "input": "1, 2", **sides}]).items
        assert pair.prompt.text == asked


def test_content_in_parts_is_their_text():
    def parts(*texts):
        return [{"type": "text", "text": text} for text in texts]

    row = {"prompt": [{"role": "user", "content": parts("Up", "?")}]}
    row |= {name: [{"role": "assistant", "content": parts(name)}] for name in ("chosen", "rejected")}
    (pair,) = load_preferences([row]).items
    assert (pair.prompt.text, pair.chosen, pair.rejected) == ("Up?", "chosen", "rejected")
    for bad in ([{"type": "image", "url": "x"}, *parts("see")], {"a": 1}, []):
        with pytest.raises(QuestionError, match="a message whose content is"):
            load_prompts([{"prompt": [{"role": "user", "content": bad}]}])


def test_transcripts_beside_the_prompt_they_begin_with_are_no_responses():
    start = "Human: Up?\n\nAssistant:"
    row = {"prompt": f"\n\n{start}", "chosen": f"\n\n{start} Yes.", "rejected": f"{start} No."}
    (pair,) = load_preferences([row]).items
    assert (pair.prompt.text, pair.chosen, pair.rejected) == (start, " Yes.", " No.")
    (pair,) = load_preferences([{"prompt": "Up", "chosen": "Up it is", "rejected": "Up? No"}]).items
    assert pair.chosen == "Up it is"  # words, not a transcript


def test_a_list_of_several_turns_has_a_plain_text_for_models_without_a_template():
    (prompt,) = load_prompts([{"prompt": messages("Hi", "Hello", "Up?")}]).items
    assert prompt.text == "Human: Hi\n\nAssistant: Hello\n\nHuman: Up?\n\nAssistant:"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**PAIR, "chosen": "  "}, "empty chosen"),
        ({**PAIR, "rejected": "Yes. "}, "the same"),
        ({"prompt": "Up?", "chosen": "Yes."}, "without chosen and rejected"),
        ({"chosen": "Yes.", "rejected": "No."}, "without a prompt"),
        ({"chosen": messages("Up?", "Yes."), "rejected": messages("Down?", "No.")}, "do not share"),
        ({**PAIR, "id": "first"}, "repeats the id"),
        ({**PAIR, "id": "other", "prompt": "First?"}, "repeats the content"),
        ({**PAIR, "prompt": messages("Hi", "Hello")}, "ends with the assistant"),
    ],
)
def test_every_bad_row_is_refused_with_its_place_or_left_out_by_name(row, reason):
    rows = [{"id": "first", "prompt": "First?", "chosen": "Yes.", "rejected": "No."}, row]
    with pytest.raises(QuestionError, match=reason) as caught:
        load_preferences(rows)
    assert "row 2" in caught.value.asked
    found = load_preferences(rows, skip_bad=True)
    assert [p.id for p in found.items] == ["first"]
    assert found.skipped[0].where == "row 2"
    assert reason in found.skipped[0].reason


def test_errors_speak_of_pairs_and_prompts(tmp_path):
    with pytest.raises(QuestionError, match=r"preference pairs from .*absent") as caught:
        load_preferences(tmp_path / "absent.jsonl")
    assert "no such file" in caught.value.found
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a"\n')
    with pytest.raises(QuestionError, match=r"prompts from broken.jsonl line 1"):
        load_prompts(tmp_path / "broken.jsonl")
    with pytest.raises(QuestionError, match="did you mean 'query'"):
        load_prompts([{"query": "Up?"}], columns={"prompt": "qery"})


def test_limit_keeps_the_first_after_all_were_looked_at():
    rows = [{"prompt": f"number {i}"} for i in range(5)]
    assert [p.text for p in load_prompts(rows, limit=2).items] == ["number 0", "number 1"]
    with pytest.raises(QuestionError, match="repeats"):
        load_prompts([*rows, rows[0]], limit=2)


def test_pairs_and_prompts_are_told_in_a_line():
    rows = [{"prompt": "Name a colour.", "chosen": "Red.", "rejected": "No."}]
    pairs = load_preferences(rows)
    assert repr(pairs) == f"<Collected {pairs.name!r}: 1 pairs>"
    prompts = load_prompts([*rows, {"prompt": ""}], skip_bad=True)
    assert repr(prompts) == f"<Collected {prompts.name!r}: 1 prompts, 1 left out>"
