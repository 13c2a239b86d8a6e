"""benchmarks/RESULTS.md: every section is written by the benchmark that measured it, none by hand."""

from __future__ import annotations

import os
import platform
import re
from datetime import date
from pathlib import Path

RESULTS_FILE = Path(__file__).parent / "RESULTS.md"
HEADER = "# Results\n\nWritten by the benchmarks themselves; each section says on what and by which command.\n"


def describe_machine() -> str:
    """The machine and the versions a figure was measured on."""
    import torch
    import transformers

    if torch.cuda.is_available():
        what = torch.cuda.get_device_name()
    else:
        told = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
        name = re.search(r"model name\s*:\s*(.+)", told)
        features = [feature for feature in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if f" {feature}" in told][:1]
        what = " ".join([name[1] if name else platform.processor(), f"{os.cpu_count()} cores,", *features]).replace(
            "  ", " "
        )
    return f"{what}; torch {torch.__version__}, transformers {transformers.__version__}, Python {platform.python_version()}"


def write_section(title: str, command: str, body: str, machine_description: str | None = None) -> None:
    """Write the section `title`, in place of one of that name if there is one; machine_description: the machine and versions, if others."""
    text = RESULTS_FILE.read_text(encoding="utf-8") if RESULTS_FILE.is_file() else HEADER
    section = f"## {title}\n\n{date.today()}, {machine_description or describe_machine()}.\n\n    {command}\n\n{body.strip()}\n"
    parts = re.split(r"(?m)^(?=## )", text)
    titles = [part.partition("\n")[0] for part in parts]
    if f"## {title}" in titles:
        parts[titles.index(f"## {title}")] = section + "\n"
    else:
        parts.append(section)
    RESULTS_FILE.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, the first column to the left, the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
