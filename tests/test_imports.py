"""Who may import whom, by reading the import statements."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("engine", "data", "pretrain", "finetune", "publish")
MAY_IMPORT = {
    "engine": set(),
    "data": {"engine"},
    "pretrain": {"engine", "data", "publish"},
    "finetune": {"engine", "data", "publish"},
    "publish": {"engine"},
}
SHARED = (
    "publish.card.card",
    "publish.report.run_report",
)  # all that the stages know of publishing: from records and logs to text
HEAVY = {
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "tokenizers",
    "peft",
    "sklearn",
    "daft",
    "ray",
    "pyarrow",
    "pandas",
    "scipy",
    "ftfy",
}
LIGHT = (
    "engine.config.loader",
    "engine.errors",
    "engine.config.help",
    "engine.cli",
    "data.sources.source",
    "data.config",
    "data.tasks.task",
    "data.sources.readers",
    "data.__main__",
    "pretrain.config",
    "finetune.config",
    "pretrain.__main__",
    "finetune.__main__",
    "finetune.study.config",
    "finetune.study.__main__",
    "publish.config",
    "publish.__main__",
    "engine.runs.trackers",
    "engine.html",
    "publish.report.run_report",
    "publish.compare",
    "publish.export",
)


def file_of(module: str) -> Path | None:
    """The file of one of our modules; None for anybody else's."""
    path = ROOT / module.replace(".", "/")
    if module.partition(".")[0] not in PACKAGES:
        return None
    return next((p for p in (path / "__init__.py", path.with_suffix(".py")) if p.is_file()), None)


def statements(node: ast.AST, inside_functions: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements below a node."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif inside_functions or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from statements(child, inside_functions)


def imported(path: Path, inside_functions: bool) -> set[str]:
    """The modules that a file names in its imports; `from data import batches` names data and data.tokens.collate."""
    found = set()
    for statement in statements(ast.parse(path.read_text(encoding="utf-8")), inside_functions):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        else:
            assert statement.level == 0, f"{path}: a relative import, which this test does not follow"
            found |= {statement.module} | {f"{statement.module}.{alias.name}" for alias in statement.names}
    return found


def reached(module: str) -> set[str]:
    """Everything that importing a module imports at module level, followed through our own files."""
    seen, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if file_of(name):
            # Importing a.b runs a/__init__.py first.
            waiting += [*imported(file_of(name), inside_functions=False), *filter(None, [name.rpartition(".")[0]])]
    return seen


def test_the_reader_finds_imports_in_functions_classes_and_branches(tmp_path):
    path = tmp_path / "example.py"
    path.write_text("import a.b\nif a:\n    from c import d\nclass K:\n    import e\ndef f():\n    import g as h\n")
    assert imported(path, inside_functions=False) == {"a.b", "c", "c.d", "e"}
    assert imported(path, inside_functions=True) == {"a.b", "c", "c.d", "e", "g"}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        names = imported(path, inside_functions=True)
        ours = {name.partition(".")[0] for name in names} & set(PACKAGES)
        assert ours <= MAY_IMPORT[package] | {package}, f"{path.relative_to(ROOT)} imports {ours}"
        outside = {name for name in names if file_of(name) and name.startswith("publish.") and name not in SHARED}
        assert package == "publish" or not outside, f"{path.relative_to(ROOT)} imports {outside}"


@pytest.mark.parametrize("module", LIGHT)
def test_what_help_needs_imports_nothing_heavy(module):
    assert file_of(module)
    assert not {name.partition(".")[0] for name in reached(module)} & HEAVY


def test_following_imports_does_reach_torch():
    assert "torch" in reached("pretrain.train") and "torch" in reached("finetune.train")


def test_a_mistake_is_told_before_anything_heavy_is_loaded():
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            f"""
import sys
from engine.errors import ConfigError
from finetune.__main__ import main
try:
    main(["configs/finetune/sentiment.yaml", "task.labelz=3", "train.lr=x"])
except ConfigError as error:
    print(error)
print(sorted(set(sys.modules) & {HEAVY}))
""",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
    ).stdout
    assert said.splitlines() == [
        "task.labelz: no such key (nearest: task.label)",
        "train.lr: 'x' is not a number",
        "[]",
    ]
