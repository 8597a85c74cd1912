"""The page on statistics shows the committed results and runs."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "statistics.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["coverage", "difference_coverage", "clustered_floor"])
def test_the_tables_of_coverage_are_those_of_the_committed_simulations(name):
    spec = importlib.util.spec_from_file_location(f"{name}_benchmark", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = json.loads((ROOT / "benchmarks" / f"{name}.json").read_text())
    mark = name.removesuffix("_coverage").replace("_", " ")
    shown = re.search(rf"<!-- {mark} table -->\n(.*?)\n<!-- end of {mark} table -->", PAGE, re.DOTALL)
    assert shown is not None
    assert shown.group(1) == module.table(result)


def test_the_cost_table_is_that_of_the_committed_run():
    result = json.loads((ROOT / "benchmarks" / "metrics_speed.json").read_text())
    for row in result["thousand_draws"]:
        assert f"| {row['n']:,} | {row['measure_seconds']:.3g} | {row['battery_seconds']:.3g} |" in PAGE
    for row in result["side_by_side"]:
        for name, ratio in row["times_ours"].items():
            assert f"| {row['n']:,} | {name} | {ratio:.3g} |" in PAGE


def test_the_example_runs(capsys):
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code is not None
    exec(code.group(1), {})
    assert "distinguishable from calibrated" in capsys.readouterr().out
