"""docs/settings.md lists every setting of a tuning, as the code has it."""

import re
from pathlib import Path

import yaml

from calibrant.tuning import TuneConfig
from calibrant.tuning.config import LoraSettings

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "settings.md").read_text(encoding="utf-8")


def rows(settings, prefix=""):
    """A row of the page for each field."""
    for name, field in settings.model_fields.items():
        if name == "lora":
            yield f"| `lora` | as below | {field.description} |"
            yield from rows(LoraSettings, "lora: ")
        else:
            default = field.default if isinstance(field.default, str) else yaml.safe_dump(field.default).split("\n")[0]
            yield f"| `{prefix}{name}` | {default} | {field.description} |"


def test_the_table_is_the_settings():
    table = re.findall(r"^\| `.*\|$", PAGE, re.M)
    assert table == list(rows(TuneConfig))
    assert not [line for line in table if "None" in line.split("|")[3].strip()[:4]]  # each says what it is


def test_the_example_is_a_valid_file():
    text = (DOCS / "objectives.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    config = TuneConfig.make(yaml.safe_load(example))
    config.check()
    assert config.lora.rank == 16
