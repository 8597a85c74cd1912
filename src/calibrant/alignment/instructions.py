"""Instructions that a program can check, in the spirit of IFEval (Zhou et al. 2023, arXiv 2311.07911). No torch.

The texts and checks are ours: ten kinds of instruction on eight topics each, so 80 prompts, always the same. An answer must
follow its instruction to the letter and hold a few words; nothing judges whether it is good.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibrant.alignment.data import Prompt, Turn
from calibrant.alignment.paired import Paired, paired_share
from calibrant.metrics.estimates import Sampling

LEAST_WORDS = 3
TOPICS = (
    "why the sky is blue",
    "how to boil an egg",
    "what a library is for",
    "how bees make honey",
    "why sleep matters",
    "how a bicycle stays upright",
    "what causes the seasons",
    "how to plant a tree",
)
WORDS = ("light", "water", "book", "flower", "rest", "wheel", "sun", "soil")
NUMBERS = (3, 4, 5, 2, 3, 4, 5, 2)
LIMITS = (10, 15, 20, 25, 30, 12, 18, 40)
KEYS = (("topic", "reason"), ("title", "steps"), ("name", "purpose"), ("summary", "source"))
PHRASES = ("That is all.", "I hope this helps.", "Thank you for asking.", "End of answer.")


@dataclass(frozen=True)
class Instruction:
    """One prompt and the rule that its answer must follow: ``kind`` names the rule, ``value`` what it is about."""

    id: str
    kind: str
    text: str
    value: Any

    @property
    def prompt(self) -> Prompt:
        """As a prompt of one turn."""
        return Prompt(self.id, (Turn("user", self.text),), self.text)

    def followed_by(self, response: str) -> bool:
        """Whether a response follows the rule; one of fewer than three words never does, unless it is JSON."""
        text = response.strip()
        if self.kind != "json" and len(text.split()) < LEAST_WORDS:
            return False
        return CHECKS[self.kind](text, self.value)


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'’-]+", text.lower())


def _capitals(text: str, _value: Any) -> bool:
    return any(c.isalpha() for c in text) and text == text.upper()


def _lowercase(text: str, _value: Any) -> bool:
    return any(c.isalpha() for c in text) and text == text.lower()


def _json(text: str, keys: Sequence[str]) -> bool:
    """One JSON object with exactly these keys; a Markdown fence around it is allowed."""
    inside = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", text, re.DOTALL)
    try:
        value = json.loads(inside.group(1) if inside else text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and set(value) == set(keys)


def _bullets(text: str, number: int) -> bool:
    """So many lines that begin with ``-`` or ``*`` and a space and hold text."""
    return len(re.findall(r"^[ \t]*[-*][ \t]+\S", text, re.MULTILINE)) == number


def _quoted(text: str, _value: Any) -> bool:
    return len(text) > 2 and text[0] in '"“' and text[-1] in '"”'


CHECKS: Mapping[str, Callable[[str, Any], bool]] = {
    "at_most_words": lambda text, most: len(text.split()) <= most,
    "capitals": _capitals,
    "lowercase": _lowercase,
    "include_word": lambda text, word: word in _words(text),
    "avoid_word": lambda text, word: word not in _words(text),
    "json": _json,
    "bullets": _bullets,
    "end_phrase": lambda text, phrase: text.endswith(phrase),
    "no_commas": lambda text, _value: "," not in text,
    "quoted": _quoted,
}
TEXTS = {
    "at_most_words": "Explain {topic}. Answer in at most {value} words.",
    "capitals": "Explain {topic}. Write your entire answer in capital letters.",
    "lowercase": "Explain {topic}. Write your entire answer in lowercase letters, with no capital letter.",
    "include_word": "Explain {topic} in two sentences. Your answer must include the word “{value}”.",
    "avoid_word": "Explain {topic} in two sentences. Do not use the word “{value}” in your answer.",
    "json": "Write about {topic} as one JSON object with exactly these keys: {value}. Answer with the JSON alone.",
    "bullets": "Explain {topic} in exactly {value} bullet points, each on a line of its own that begins with “- ”.",
    "end_phrase": "Explain {topic} in two sentences. End your answer with exactly this sentence: {value}",
    "no_commas": "Explain {topic} in three sentences. Do not use any commas.",
    "quoted": "Explain {topic} in one sentence. Put double quotation marks around your entire answer.",
}
_VALUES: Mapping[str, Callable[[int], Any]] = {
    "at_most_words": lambda i: LIMITS[i],
    "include_word": lambda i: WORDS[i],
    "avoid_word": lambda i: WORDS[i],
    "json": lambda i: KEYS[i % len(KEYS)],
    "bullets": lambda i: NUMBERS[i],
    "end_phrase": lambda i: PHRASES[i % len(PHRASES)],
}


def instruction_set() -> tuple[Instruction, ...]:
    """The 80 instructions, ten kinds on eight topics, always the same.

    >>> len(instruction_set()), instruction_set()[0].text
    (80, 'Explain why the sky is blue. Answer in at most 10 words.')
    """
    out = []
    for kind, text in TEXTS.items():
        for i, topic in enumerate(TOPICS):
            value = _VALUES[kind](i) if kind in _VALUES else None
            shown = ", ".join(f"“{key}”" for key in value) if isinstance(value, tuple) else value
            out.append(Instruction(f"{kind}-{i + 1}", kind, text.format(topic=topic, value=shown), value))
    return tuple(out)


@dataclass(frozen=True)
class InstructionCheck:
    """Share of checkable instructions followed, by both models on the same prompts, over all and by kind."""

    n: int
    followed: Paired
    by_kind: Mapping[str, tuple[int, int, int]]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; by kind: instructions, followed by the aligned model, by the tuned model."""
        kinds = {k: dict(zip(("n", "aligned", "tuned"), v, strict=True)) for k, v in self.by_kind.items()}
        return {"n": self.n, "followed": self.followed.to_json(), "by_kind": kinds}


def instruction_check(
    instructions: Sequence[Instruction], answers: Mapping[str, Sequence[str]], *, how: Sampling | None = None
) -> InstructionCheck:
    """Check ``answers["aligned"]`` and ``answers["tuned"]``, one each an instruction."""
    done = {
        which: np.array([i.followed_by(text) for i, text in zip(instructions, answers[which], strict=True)])
        for which in ("aligned", "tuned")
    }
    kind_N = np.array([i.kind for i in instructions])
    by_kind = {
        str(kind): (
            int((kind_N == kind).sum()),
            int(done["aligned"][kind_N == kind].sum()),
            int(done["tuned"][kind_N == kind].sum()),
        )
        for kind in dict.fromkeys(kind_N)
    }
    return InstructionCheck(len(instructions), paired_share(done["aligned"], done["tuned"], how or Sampling()), by_kind)
