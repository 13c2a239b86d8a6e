"""Check that a saved folder gives the recorded outputs, in a process without this project."""

import json
import os
import subprocess
import sys
from pathlib import Path

from engine.errors import DataError

TOLERANCE = 1e-5  # largest difference of an output from the recorded one, relative to values above 1


def verify_folder(folder: Path, auto_class: str, output: str, sample_path: Path) -> None:
    """Raise DataError unless plain transformers loads the folder and reproduces the outputs in `sample_path`.

    auto_class, output: as in `engine.models.load_check`. Without a file at `sample_path`, the folder is only loaded.
    """
    args = [str(folder.resolve()), auto_class, output]
    if sample_path.is_file():
        args.append(str(sample_path.resolve()))
    result = run_load_check(args)
    if missing := result["missing_weights"]:
        raise DataError(f"weights are missing: {', '.join(missing[:3])} and {max(0, len(missing) - 3)} more")
    if result["max_difference"] > TOLERANCE:
        difference = f"off by {result['max_difference']:.2g} on {sample_path.name} ({TOLERANCE:g} is allowed)"
        raise DataError(f"does not reproduce the recorded outputs: {difference}")


def run_load_check(args: list[str]) -> dict:
    """Run `engine.models.load_check` in a new process; return what it prints. Raises DataError if it fails."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    script = Path(__file__).with_name("load_check.py").resolve()
    command = [sys.executable, "-P", str(script), *args]
    done = subprocess.run(command, capture_output=True, text=True, cwd=script.parent, env=environment)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no error message"]
        raise DataError(f"transformers cannot load it: {lines[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
