"""The limits on functions, which ruff checks in part."""

import tomllib

from code_metrics import measure
from helpers import ROOT


def test_no_function_is_over_the_limits():
    figures = measure()
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert figures["lines of the longest function"][0] <= 60, figures
    assert figures["most parameters"][0] <= 8, figures
    assert figures["highest complexity"][0] <= lint["mccabe"]["max-complexity"] == 12, figures
    assert "per-file-ignores" not in lint or not any("C901" in rules for rules in lint["per-file-ignores"].values())
