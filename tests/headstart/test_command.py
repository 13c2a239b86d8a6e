"""`headstart NAME ARGS` is `python -m MODULE ARGS`; without a name it lists the commands."""

import subprocess
import sys
import tomllib
from importlib import import_module

import pytest
from helpers import ROOT, error_lines, run_module

from headstart.__main__ import COMMANDS, run_named

# The module of each command for python -m.
MODULES = {
    "data": "data",
    "pretrain": "pretrain",
    "explore": "explore",
    "label": "label",
    "finetune": "finetune",
    "predict": "predict",
    "study": "finetune.study",
    "compare-objectives": "compare",
    "evaluate": "pretrain.evaluate",
    "export": "publish.export",
    "compare": "publish.compare",
    "publish": "publish",
}


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_without_a_name_all_commands_are_listed_in_one_line_each(args, capsys):
    run_named(args)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[: lines.index("")]] == [["headstart", name] for name in MODULES]
    assert all(len(line) <= 80 for line in lines)


def test_every_command_is_the_module_that_python_runs():
    for name, module in MODULES.items():
        assert COMMANDS[name][0].removesuffix(".__main__") == module
        assert callable(import_module(COMMANDS[name][0]).main)


@pytest.mark.parametrize("name", MODULES)
def test_a_command_gets_its_arguments(name, capsys):
    run_named([name, "--help"])
    output = capsys.readouterr().out
    import_module(COMMANDS[name][0]).main(["--help"])
    assert output == capsys.readouterr().out and f"  python -m {MODULES[name]} " in output


@pytest.mark.parametrize(
    "args, message",
    [
        (["pretain", "run=x"], "pretain: no such command (nearest: pretrain)"),
        (["fintune"], "fintune: no such command (nearest: finetune)"),
        (["--version"], f"--version: no such command (there are: {', '.join(sorted(MODULES))})"),
    ],
)
def test_a_mistyped_command_is_one_line(args, message, capsys, monkeypatch):
    assert error_lines(run_named, args, capsys, monkeypatch) == [message]


def test_a_process_lists_the_commands_and_passes_exit_codes_on(tmp_path):
    listed, mistyped = run_module("headstart", cwd=tmp_path), run_module("headstart", "pubish", cwd=tmp_path)
    assert (
        listed.returncode == 0
        and not listed.stderr
        and "\n  headstart pretrain            pretrain an" in listed.stdout
    )
    assert (mistyped.returncode, mistyped.stdout) == (2, "")
    assert mistyped.stderr == "pubish: no such command (nearest: publish)\n"
    expected = run_module("publish.compare", "missing", cwd=tmp_path)
    passed_on = run_module("headstart", "compare", "missing", cwd=tmp_path)
    assert expected.returncode == 2 and "missing" in expected.stderr
    assert (passed_on.returncode, passed_on.stdout, passed_on.stderr) == (2, expected.stdout, expected.stderr)


def test_the_listing_loads_no_stage():
    script = (
        "import sys; from headstart.__main__ import run_named; run_named([])\n"
        "print(sorted({'torch', 'transformers', 'data', 'pretrain', 'explore', 'label', 'finetune', 'predict',"
        " 'publish', 'compare'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.endswith("\n[]\n"), result.stdout + result.stderr


def test_the_installed_script_is_the_command():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    module, _, function = project["project"]["scripts"]["headstart"].partition(":")
    assert module == "headstart.__main__" and callable(getattr(import_module(module), function))
    assert "headstart*" in project["tool"]["setuptools"]["packages"]["find"]["include"]
