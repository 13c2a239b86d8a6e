"""Print the size of the product code and of its functions:  python tests/code_metrics.py."""

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PACKAGES = ("engine", "data", "pretrain", "finetune", "publish", "compare", "headstart")
TEMPLATES = ("*.j2", "*.md")


class Function(NamedTuple):
    """A function of the product."""

    name: str
    lines: int
    parameters: int
    """Without self and cls."""


def product_files(*patterns: str) -> list[Path]:
    """List the files of the packages."""
    return sorted(path for package in PACKAGES for pattern in patterns for path in (ROOT / package).rglob(pattern))


def list_functions() -> Iterator[Function]:
    """Yield every function and method."""
    for path in product_files("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = sum(argument.arg not in ("self", "cls") for argument in arguments)
                name = f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
                yield Function(name, node.end_lineno - node.lineno + 1, count)


def highest_complexity() -> tuple[int, str]:
    """Return the highest McCabe complexity and its function, as ruff counts it."""
    command = ["ruff", "check", "--isolated", "--select=C901", "--config=lint.mccabe.max-complexity=1", "--exit-zero"]
    output = subprocess.run(
        [ROOT / ".venv/bin/ruff", *command[1:], "--output-format=json", *PACKAGES], cwd=ROOT, capture_output=True
    ).stdout
    found = []
    for entry in json.loads(output):
        name, complexity = re.match(r"`(.*)` is too complex \((\d+) > 1\)", entry["message"]).groups()
        path = Path(entry["filename"]).relative_to(ROOT)
        found.append((int(complexity), f"{path}:{entry['location']['row']} {name}"))
    return max(found)


def measure() -> dict[str, tuple[int, str]]:
    """Return each figure and where it is."""
    functions = list(list_functions())
    longest, widest = (max(functions, key=lambda f: f[index]) for index in (1, 2))
    code, templates = (
        sum(len(path.read_text(encoding="utf-8").splitlines()) for path in product_files(*patterns))
        for patterns in (("*.py",), TEMPLATES)
    )
    return {
        "lines of the longest function": (longest.lines, longest.name),
        "most parameters": (widest.parameters, widest.name),
        "highest complexity": highest_complexity(),
        "functions": (len(functions), f"median of {median(f.lines for f in functions):.0f} lines"),
        "lines of code": (code, "Python"),
        "lines of templates": (templates, "HTML and Markdown"),
    }


if __name__ == "__main__":
    for title, (value, where) in measure().items():
        print(f"{title:<32}{value:>7,}   {where}")
