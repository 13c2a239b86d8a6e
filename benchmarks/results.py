"""What the benchmarks share: the repository's path, options, statistics, and the sections of benchmarks/RESULTS.md.

Imported before the repository's packages, which a script in this folder does not find otherwise.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
RESULTS_FILE = Path(__file__).parent / "RESULTS.md"
HEADER = "# Results\n\nWritten by the benchmarks; each section gives the machine and the command.\n"


def parse_options(args: list[str], **defaults: str | None) -> tuple[dict[str, str | None], list[str]]:
    """Split a command line into the options named in `defaults` and the other arguments."""
    given = dict(arg.split("=", 1) for arg in args if arg.partition("=")[0] in defaults)
    return defaults | given, [arg for arg in args if arg.partition("=")[0] not in defaults]


def half_interval(values) -> float:
    """Return half the width of the 95% confidence interval of the mean (Student's t); NaN for a single value."""
    from scipy import stats

    if len(values) < 2:
        return float("nan")
    return stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5


def describe_machine() -> str:
    """Describe the machine and the versions of the main packages."""
    import torch
    import transformers

    if torch.cuda.is_available():
        machine = torch.cuda.get_device_name()
    else:
        info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
        name = re.search(r"model name\s*:\s*(.+)", info)
        features = [feature for feature in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if f" {feature}" in info][:1]
        machine = " ".join([name[1] if name else platform.processor(), f"{os.cpu_count()} cores,", *features])
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{machine.replace('  ', ' ')}; {versions}, Python {platform.python_version()}"


def write_section(title: str, command: str, body: str, machine: str | None = None) -> None:
    """Write a section, replacing one with the same title. machine: its description; default: this machine."""
    text = RESULTS_FILE.read_text(encoding="utf-8") if RESULTS_FILE.is_file() else HEADER
    section = f"## {title}\n\n{date.today()}, {machine or describe_machine()}.\n\n    {command}\n\n{body.strip()}\n"
    parts = re.split(r"(?m)^(?=## )", text)
    titles = [part.partition("\n")[0] for part in parts]
    if f"## {title}" in titles:
        parts[titles.index(f"## {title}")] = section
    else:
        parts.append(section)
    RESULTS_FILE.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table with the first column left-aligned and the others right-aligned."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
