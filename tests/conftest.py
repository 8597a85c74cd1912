"""Tiny random models with real tokenizers, made on the spot: no network, no downloads, seconds to build."""

import json
import os
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers of one run share the cores

CAPITALS = [
    ("France", "Paris"), ("Italy", "Rome"), ("Spain", "Madrid"), ("Peru", "Lima"), ("Cuba", "Havana"),
    ("Kenya", "Nairobi"), ("Japan", "Tokyo"), ("Egypt", "Cairo"), ("Chile", "Santiago"), ("Norway", "Oslo"),
    ("Ghana", "Accra"), ("Nepal", "Kathmandu"),
]  # fmt: skip
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def capital_questions(name, n, *, ks=(4,), seed=0):
    """``n`` questions on small sums of capitals, all different; the numbers of options go round ``ks``."""
    from random import Random

    from calibrant.questions import Question, QuestionSet

    draw = Random(f"{name}{seed}")
    cities = [city for _, city in CAPITALS]
    questions = []
    for i in range(n):
        country, city = CAPITALS[i % len(CAPITALS)]
        k = ks[i % len(ks)]
        others = draw.sample([c for c in cities if c != city], k - 1)
        answer = draw.randrange(k)
        choices = (*others[:answer], city, *others[answer:])
        questions.append(Question(f"{name}-{i}", f"Capital of {country}, {name} {i}?", choices, answer, country))
    return QuestionSet(name, tuple(questions))


def trained_tokenizer(*, bos=True, eos_at_end=False, chat=True):
    """Byte-level BPE trained on a few sentences; every ``" A"`` … ``" Z"`` and ``"A"`` … ``"Z"`` is one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from tokenizers.decoders import ByteLevel
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevel()
    letters = " ".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    corpus = [f" {letters}"] * 40 + [f"Question: Capital of {a}?\nAnswer: {b}" for a, b in CAPITALS] * 5
    trainer = trainers.BpeTrainer(
        vocab_size=320,  # so few that options are several tokens each
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>", "<pad>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    if bos or eos_at_end:
        single = f"{'<s> ' if bos else ''}$A{' </s>' if eos_at_end else ''}"
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    if chat:
        fast.chat_template = CHAT_TEMPLATE
    return fast


def merging_tokenizer(merges, *, missing=()):
    """Byte-level BPE with exactly these merges and no splitting before them: ``(":", "A")`` makes ``":A"`` one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from tokenizers.decoders import ByteLevel
    from transformers import PreTrainedTokenizerFast

    alphabet = [c for c in sorted(pre_tokenizers.ByteLevel.alphabet()) if c not in missing]
    names = ["<s>", "</s>", "<pad>", "<unk>", *alphabet, *(a + b for a, b in merges)]
    vocabulary = {name: i for i, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges), unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def tiny_config(kind, vocab_size):
    """A two-layer configuration of a kind of model, with what it does to its logits switched on."""
    import transformers as t

    common = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }
    makers = {
        "llama": lambda: t.LlamaConfig(**common),
        "qwen2": lambda: t.Qwen2Config(**common),
        "qwen3": lambda: t.Qwen3Config(**common, head_dim=8, tie_word_embeddings=True),
        "gemma2": lambda: t.Gemma2Config(**common, head_dim=8, query_pre_attn_scalar=8, final_logit_softcapping=5.0),
        "cohere": lambda: t.CohereConfig(**common, logit_scale=0.25),
        "granite": lambda: t.GraniteConfig(**common, logits_scaling=3.0),
        "gpt2": lambda: t.GPT2Config(
            vocab_size=vocab_size, n_embd=32, n_layer=2, n_head=4, n_positions=512, bos_token_id=0, eos_token_id=1
        ),
    }
    return makers[kind]()


def tiny_model(kind, tokenizer, *, seed=0, spread=8.0):
    """A random model whose logits are spread enough to prefer some options to others."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(kind, len(tokenizer)))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.mul_(spread if "embed" in name or "wte" in name or "head" in name else 2.0)
    return model.eval()


@pytest.fixture(scope="session")
def temperature():
    """A function from a value to a fitted temperature of that value."""
    from calibrant.scalers import Temperature

    def of(value):
        plain = {"name": "temperature", "temperature": value, "at_bound": False, "n_fit": 9, "n_left_out": 0}
        return Temperature.from_json({**plain, "fit_keys": []})

    return of


@pytest.fixture(scope="session")
def make_questions():
    return capital_questions


@pytest.fixture(scope="session")
def tokenizer():
    return trained_tokenizer()


@pytest.fixture(scope="session")
def make_tokenizer():
    return trained_tokenizer


@pytest.fixture(scope="session")
def make_merging_tokenizer():
    return merging_tokenizer


@pytest.fixture(scope="session")
def make_model():
    return tiny_model


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub cache on disk, laid out as the hub's client does; a function puts a folder into it as a repository."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(repository, commits):
        place = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        for commit, (name, folder) in commits.items():
            shutil.copytree(folder, place / "snapshots" / commit)
            (place / "refs" / name).write_text(commit)

    return put


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, tokenizer):
    """A function from a kind of model to a folder with it and the tokenizer, saved once a session."""
    saved = {}

    def folder(kind="llama"):
        if kind not in saved:
            place = tmp_path_factory.mktemp("models") / kind
            tiny_model(kind, tokenizer).save_pretrained(place)
            tokenizer.save_pretrained(place)
            saved[kind] = place
        return saved[kind]

    return folder


@pytest.fixture(scope="session")
def loaded(model_folder):
    """A function from a kind of model to it, loaded by the package; only for tests that leave it as it is."""
    from calibrant.scoring.models import load_model

    kept = {}

    def load(kind="llama"):
        if kind not in kept:
            kept[kind] = load_model(model_folder(kind), device="cpu")
        return kept[kind]

    return load


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, model_folder):
    """A LoRA adapter of random weights for the plain tiny model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from calibrant.scoring.models import quiet_peft

    torch.manual_seed(3)
    settings = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    with quiet_peft():
        tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder()), settings)
    folder = tmp_path_factory.mktemp("tuned") / "adapter"
    tuned.save_pretrained(folder)
    return folder


class JsonServer:
    """``answer(body) -> JSON``; ``failures`` holds (status, headers, text) that are sent first, one a request."""

    def __init__(self, answer):
        self.answer, self.failures, self.requests, self.lock = answer, [], [], threading.Lock()
        self.running = self.most_at_once = 0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                owner.handle(self)

            def log_message(self, *_args):
                pass

        self.server = ThreadingHTTPServer(("localhost", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def url(self):
        return f"http://localhost:{self.server.server_address[1]}/v1"

    def handle(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            self.requests.append((handler.path, dict(handler.headers), body))
            self.running += 1
            self.most_at_once = max(self.most_at_once, self.running)
            failure = self.failures.pop(0) if self.failures else None
        status, headers, text = failure or (200, {}, json.dumps(self.answer(body)))
        with self.lock:
            self.running -= 1
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(text.encode()))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(text.encode())

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def json_server(monkeypatch):
    """A function from ``answer`` to a running HTTP server on this machine; all are closed at the end of the test."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    running = []

    def start(answer):
        running.append(JsonServer(answer))
        return running[-1]

    yield start
    for server in running:
        server.close()
