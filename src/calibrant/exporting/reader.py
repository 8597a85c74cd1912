"""Read option probabilities from the model beside this file, as they were read when it was measured.

This file stands alone: it needs torch and transformers (and peft, where serving.json names an adapter), not calibrant.

    from reader import Reader
    reader = Reader()
    reader.answer("Capital of France?", ["Lyon", "Paris"])

or, with questions as JSON lines on the standard input:  python reader.py < questions.jsonl
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
DATE = re.compile(r"strftime_now\(\s*(['\"])(.*?)\1\s*\)")


class Reader:
    """The model of an export folder, its temperature and its abstention threshold."""

    def __init__(
        self, folder: str | Path = Path(__file__).parent, device: str = "cpu", trust_remote_code: bool = False
    ) -> None:
        self.facts = json.loads((Path(folder) / "serving.json").read_text(encoding="utf-8"))
        adapter, base = self.facts["adapter"], self.facts["model"]
        alone = adapter is not None and not adapter["merged"]
        source, revision = (base["name"], base["revision"]) if alone else (str(folder), None)
        if (Path(source) / "adapter_config.json").exists():
            raise ValueError(f"an adapter lies beside the model's weights in {source} and would be put on them unsaid")
        options: dict[str, Any] = {"dtype": getattr(torch, self.facts["dtype"]), "revision": revision}
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        model = AutoModelForCausalLM.from_pretrained(source, trust_remote_code=trust_remote_code, **options)
        if alone:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(folder))
        self.model = model.to(device).eval()
        config = self.model.config.get_text_config()
        self.limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
        self.model.get_output_embeddings().register_forward_hook(_float32_head)

    def answer(self, question: str, choices: Sequence[str]) -> dict[str, Any]:
        """The most probable choice, its confidence, all probabilities, and whether to abstain."""
        p = self.probabilities(question, choices)
        best = max(range(len(p)), key=p.__getitem__)
        limit = self.facts["abstention"]
        abstain = limit is not None and p[best] < limit["threshold"]
        return {"answer": best, "choice": choices[best], "confidence": p[best], "abstain": abstain, "probabilities": p}

    @torch.inference_mode()
    def probabilities(self, question: str, choices: Sequence[str]) -> list[float]:
        """One probability a choice, after the temperature; they sum to 1.

        White space around question and choices does not count. Raises ValueError for fewer than 2 or more than 26 choices, for
        an empty or repeated one, for a question that is longer than the context, and where the model gives no number.
        """
        if isinstance(choices, (str, Mapping)) or not 2 <= len(choices) <= len(LETTERS):
            found = len(choices) if isinstance(choices, (list, tuple)) else repr(choices)
            raise ValueError(f"a question has a list of 2 to {len(LETTERS)} choices, not {found}")
        given: Sequence[Any] = choices
        if odd := [c for c in given if isinstance(c, bool) or not isinstance(c, (str, Real))]:
            raise ValueError(f"choices are texts or numbers, not {odd[0]!r}")
        question, choices = question.strip(), [str(choice).strip() for choice in choices]
        if not all(choices) or len(set(choices)) < len(choices):
            raise ValueError(f"an empty or repeated choice among {choices!r}")
        style = self.facts["prompt"]
        pairs = zip(LETTERS, choices, strict=False)
        lines = "\n".join(style["option_line"].format(letter=x, choice=c) for x, c in pairs)
        prompt = self._prompt(style["template"].format(question=question, options=lines))
        start = self._tokens(prompt, style["add_special_tokens"])
        options = [self._option(prompt, start, x, c) for x, c in zip(LETTERS, choices, strict=False)]
        length = len(start) + max(len(tokens) for option in options for tokens in option)
        if self.limit is not None and length > self.limit:
            raise ValueError(f"prompt and longest choice take {length} tokens, and the context has {self.limit}")
        score = torch.stack([self._logp(start, option) for option in options])
        if style["variant"] == "pmi":
            bare = self._tokens(self._prompt(style["unconditional"]), style["add_special_tokens"])
            score -= torch.stack([self._logp(bare, option) for option in options])
        elif style["variant"] == "per_token":
            score /= torch.tensor([len(option[0]) for option in options])
        elif style["variant"] == "per_char":
            score /= torch.tensor([len(choice) for choice in choices])
        if not torch.isfinite(score).any() or torch.isnan(score).any():
            raise ValueError(f"the model gives no number for {question!r}; in float16 use bfloat16 or float32 instead")
        p: list[float] = torch.softmax(score / self.facts["temperature"]["apply"], 0).tolist()
        return p

    def _option(self, prompt: str, start: list[int], letter: str, choice: str) -> list[list[int]]:
        """The token sequences that count as one option after the prompt."""
        style = self.facts["prompt"]
        texts = [text.format(letter=letter, choice=choice) for text in style["option_texts"]]
        found = {tuple(self._after(prompt, start, text)): None for text in texts}
        if style["reading"] != "letters":
            return [list(tokens) for tokens in found]
        single = [list(tokens) for tokens in found if len(tokens) == 1]
        if not single:
            raise ValueError(f"the letter {letter} is not one token after this prompt")
        return single

    def _prompt(self, text: str) -> str:
        style = self.facts["prompt"]
        if not style["chat"]:
            return text
        system = [] if style["system"] is None else [{"role": "system", "content": style["system"]}]
        messages = [*system, {"role": "user", "content": text}]
        template = DATE.sub(_day, self.tokenizer.get_chat_template())
        turn: str = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, chat_template=template
        )
        return turn + str(style["suffix"])

    def _tokens(self, text: str, special: bool) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=special)["input_ids"]
        bare, whole = (self.tokenizer("x", add_special_tokens=x)["input_ids"] for x in (False, True))
        places = [i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare]
        end = whole[places[-1] + len(bare) :] if special and places else []
        return ids[: -len(end)] if end and len(ids) > len(end) and ids[-len(end) :] == end else ids

    def _after(self, prompt: str, start: list[int], text: str) -> list[int]:
        """Tokens of an option; by itself where the tokenizer would merge it with the end of the prompt."""
        whole = self._tokens(prompt + text, self.facts["prompt"]["add_special_tokens"])
        joined = whole[: len(start)] == start and len(whole) > len(start)
        return whole[len(start) :] if joined else self._tokens(text, False)

    def _logp(self, start: list[int], option: list[list[int]]) -> torch.Tensor:
        """Log-probability of an option after the prompt's tokens: of any of its token sequences."""
        sums = []
        for tokens in option:
            ids = torch.tensor([[*start, *tokens[:-1]]], device=self.model.device)
            logits = self.model(input_ids=ids, use_cache=False).logits[0, len(start) - 1 :]
            sums.append(torch.log_softmax(logits.float(), -1)[range(len(tokens)), tokens].cpu().double().sum())
        return torch.logsumexp(torch.stack(sums), 0)


def _day(found: re.Match[str]) -> str:
    """Today, for chat templates that write it: the day that the model was measured with."""
    return found[1] + datetime(2024, 7, 26).strftime(found[2]) + found[1]


def _float32_head(head: Any, args: tuple[Any, ...], output: Any) -> Any:
    """Logits in float32, whatever the weights are in: rounded to 16 bits they move confidences and make ties."""
    hidden, weights = args[0], dict(head.named_parameters())
    if hidden.dtype == torch.float32 or not all(weight.is_floating_point() for weight in weights.values()):
        return output  # in float32 already, the call of the next line too; or quantised
    return torch.func.functional_call(
        head, {name: weight.float() for name, weight in weights.items()}, (hidden.float(),)
    )


def main() -> None:
    """JSON lines ``{"question", "choices"}`` in, answers out."""
    reader = Reader()
    for line in sys.stdin:
        if line.strip():
            row = json.loads(line)
            sys.stdout.write(json.dumps(reader.answer(row["question"], row["choices"]), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
