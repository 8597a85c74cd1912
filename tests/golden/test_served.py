"""An export behind a real `transformers serve`: the probabilities that a caller gets are those that were measured."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from calibrant.cli import app
from calibrant.errors import ConfigError
from calibrant.exporting import ServeConfig, Source, check_drift, export
from calibrant.exporting.decision_model import decided, decision_pipeline
from calibrant.scalers import Temperature
from calibrant.scores import Scores

pytest.importorskip("uvicorn")
PATIENCE = 120


@pytest.fixture(scope="module")
def questions(make_questions):
    return make_questions("served", 12, ks=(4, 2, 3))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model_folder, questions):
    fitted = Temperature().fit(Scores.from_probs([[0.9, 0.1]] * 10, [0] * 7 + [1] * 3))
    source = Source(
        str(model_folder("qwen2")),  # which the server could take for another model
        loading={"device": "cpu"},
    )
    config = ServeConfig(scaler=fitted, tolerance=0.9)
    return export(source, out=tmp_path_factory.mktemp("out") / "served", config=config, check=questions).folder


@pytest.fixture(scope="module")
def url(folder):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", folder.name, "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    said = folder.parent / "server.log"
    with said.open("w") as log:
        server = subprocess.Popen(
            [*command, "--host", "localhost", "--port", str(port)],
            cwd=folder.parent,
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            began = time.monotonic()
            while not _listens(port):
                assert server.poll() is None, said.read_text()
                assert time.monotonic() - began < PATIENCE, said.read_text()
                time.sleep(0.2)
            yield f"http://localhost:{port}/v1"
        finally:
            server.terminate()
            server.wait(PATIENCE)


def _listens(port):
    with socket.socket() as there:
        return there.connect_ex(("localhost", port)) == 0


def test_a_caller_gets_what_was_measured(url, folder, questions, tmp_path):
    file, out = questions.save(tmp_path / "questions.jsonl"), tmp_path / "served.safetensors"
    asked = ["score-served", url, "--model", folder.name, "--questions", str(file), "--out", str(out), "--quiet"]
    assert CliRunner().invoke(app, asked, catch_exceptions=False).exit_code == 0
    served = Scores.load(out)
    np.testing.assert_allclose(served.p_NK, decided(decision_pipeline(folder), questions).p_NK, atol=1e-6)
    assert served.ids == tuple(q.id for q in questions)


def test_drift_between_the_model_that_was_measured_and_the_served_one(url, folder, questions, tmp_path):
    file, out = questions.save(tmp_path / "questions.jsonl"), tmp_path / "served.safetensors"
    asked = ["score-served", url, "--model", folder.name, "--questions", str(file), "--out", str(out), "--quiet"]
    CliRunner().invoke(app, [*asked, "--state", "{question}", "--instructions", ""], catch_exceptions=False)
    done = CliRunner().invoke(
        app, ["drift", str(folder / "check" / "before.safetensors"), str(out), "--tolerance", "0.9"]
    )
    assert done.exit_code == 0
    assert "faithful, on 12 questions" in done.stdout
    with pytest.raises(ConfigError, match=r"(?s)endpoint applies a temperature.*check/before.safetensors"):
        check_drift(folder, out, questions)
    with pytest.raises(ConfigError, match="answers of an endpoint"):
        export(
            Source(str(folder), loading={"device": "cpu"}),
            out=tmp_path / "again",
            config=ServeConfig(temperature_from=Scores.load(out)),
            check=questions,
        )
