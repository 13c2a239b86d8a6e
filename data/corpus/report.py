"""What a person wants to know of a corpus before learning from it: report.json, README.md and report.html by the shards."""

from __future__ import annotations

import html
import json
from pathlib import Path

from engine.files import write_json
from engine.html import bullet_list, page as framed, table

HISTOGRAM_WIDTH, HISTOGRAM_HEIGHT = 640, 160  # of the histogram, in pixels


def counts_by_step(report: dict) -> list[tuple[str, int, int, int]]:
    """(step, documents, words, tokens) that are left after each step; tokens by the tokens per word of what is kept."""
    per_word, documents, words = (
        report["tokenizer"]["tokens_per_word"],
        report["read"]["documents"],
        report["read"]["words"],
    )
    rows = [("read and cleaned", documents, words, round(words * per_word))]
    for reason, counts in report["dropped"].items():
        documents, words = documents - counts["documents"], words - counts["words"]
        rows.append((f"less: {reason}", documents, words, round(words * per_word)))
    rows.append(
        (
            "in shards",
            sum(report[split]["documents"] for split in ("train", "held_out")),
            words,
            sum(report[split]["tokens"] for split in ("train", "held_out")),
        )
    )
    return rows


def format_notes(report: dict) -> list[str]:
    """One line for each thing a person should look at."""
    read, found = report["read"], []
    if read["empty"]:
        found.append(f"{read['empty']:,} of {read['rows']:,} rows held no text")
    found += [
        f"{count:,} documents had their {kind} mended"
        if kind in ("encoding", "html")
        else f"{count:,} of [{kind}] put in place of what looked like one"
        for kind, count in read["fixed"].items()
        if count
    ]
    for task in report["contamination"]:
        found.append(
            f"{task['documents']:,} documents {'held' if task['removed'] else 'hold'} test text of {task['name']}"
            f" ({task['full_matches']:,} of its {task['num_test_texts']:,} test texts whole, {task['partial_matches']:,}"
            f" in part; {task['too_short']:,} too short to look for)"
            + ("; removed" if task["removed"] else "; kept, decontaminate.action=remove drops them")
        )
    if "sentences" in report:
        found.append(
            f"{report['sentences']['dropped']:,} of {report['sentences']['read']:,} sentences had stood before"
        )
    found += [f"problem: {problem}" for problem in read["problems"]]
    return found


def corpus_summary(folder: Path) -> dict:
    """What the record of a run tells of the text in a folder of shards; the report beside them tells more."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {
        "steps": counts_by_step(report),
        "notes": format_notes(report),
        "contamination": report["contamination"],
        "languages": sorted({part["language"] for part in report["texts"] if part["language"]}),
    }


def write_report(folder: Path, name: str, corpus_manifest: dict, shards_manifest: dict) -> None:
    """report.json, README.md and report.html in the folder of shards.

    corpus_manifest: the manifest of the corpus folder; shards_manifest: what the shards' manifest will say.
    """
    report = {
        "name": name,
        **{key: value for key, value in corpus_manifest.items() if key != "inputs"},
        **shards_manifest,
    }
    write_json(folder / "report.json", report)
    (folder / "README.md").write_text(to_markdown(report), encoding="utf-8")
    (folder / "report.html").write_text(to_html(report), encoding="utf-8")


def shard_facts(report: dict) -> list[tuple[str, str]]:
    """(what, how much) of the shards."""
    train, held_out = report["train"], report["held_out"]
    return [
        (
            "sources",
            ", ".join(
                dict.fromkeys(
                    part["source"] + (f" ({part['language']})" if part["language"] else "") for part in report["texts"]
                )
            ),
        ),
        (
            "rows",
            f"{train['rows']:,} of {report['max_length']} positions, {train['fill_fraction']:.1%} of them filled;"
            f" {held_out['rows']:,} held out",
        ),
        ("tokens", f"{train['tokens']:,}, {train['tokens_per_epoch']:,} in a pass; {held_out['tokens']:,} held out"),
        (
            "tokenizer",
            f"{report['vocab_size']:,} tokens, {report['tokenizer']['tokens_per_word']:.2f} for a word,"
            f" {report['tokenizer']['tokens_per_character']:.2f} for a character,"
            f" {report['tokenizer']['unknown_fraction']:.3%} unknown",
        ),
    ]


def format_cells(row: tuple[str, int, int, int]) -> list[str]:
    return [row[0], *(f"{value:,}" for value in row[1:])]


def to_markdown(report: dict) -> str:
    """The report as a page of text."""
    lines = [
        f"# Corpus {report['name']}",
        "",
        "| | documents | words | tokens |",
        "|---|--:|--:|--:|",
        *("| " + " | ".join(format_cells(row)) + " |" for row in counts_by_step(report)),
        "",
        *(f"- {what}: {how_much}" for what, how_much in shard_facts(report)),
        *(f"- {note}" for note in format_notes(report)),
        "",
    ]
    if report["most_duplicated"]:
        lines += [
            "## Most repeated",
            "",
            *(f"- {each['copies']} times: {one_line(each['text'])}" for each in report["most_duplicated"]),
            "",
        ]
    for reason, examples in report["examples"].items():
        if examples:
            lines += [f"## Examples: {reason}", "", *(f"- {one_line(example)}" for example in examples), ""]
    return "\n".join(lines)


def one_line(text: str) -> str:
    """The beginning of a text on one line."""
    text = " ".join(text.split())
    return text if len(text) <= 120 else text[:117] + "..."


def histogram(lengths: list[int]) -> str:
    """Documents by their length in tokens, as a drawing: a bar for each half power of two."""
    used = [place for place, count in enumerate(lengths) if count]
    if not used:
        return ""
    first, last, most = used[0], used[-1], max(lengths)
    step = HISTOGRAM_WIDTH / (last - first + 1)
    bars = []
    for place in range(first, last + 1):
        tall = HISTOGRAM_HEIGHT * lengths[place] / most
        at = (place - first) * step
        bars.append(
            f'<rect x="{at + 1:.1f}" y="{HISTOGRAM_HEIGHT - tall + 14:.1f}" width="{step - 2:.1f}" height="{tall:.1f}"/>'
        )
        bars.append(f'<text x="{at + step / 2:.1f}" y="{HISTOGRAM_HEIGHT - tall + 11:.1f}">{lengths[place]:,}</text>')
        bars.append(f'<text x="{at + step / 2:.1f}" y="{HISTOGRAM_HEIGHT + 28}">{round(2 ** (place / 2)):,}</text>')
    return (
        f'<svg viewBox="0 0 {HISTOGRAM_WIDTH} {HISTOGRAM_HEIGHT + 34}" role="img" aria-label="documents by length">{"".join(bars)}</svg>'
        "<p>Documents by their length: each bar counts those of at least so many tokens.</p>"
    )


STYLE = """h1{font-size:2em;font-weight:bold;color:#111}rect{fill:#444}text{font:9px sans-serif;text-anchor:middle}"""


def to_html(report: dict) -> str:
    """The report as a page that needs nothing else."""
    rows = [[html.escape(cell) for cell in format_cells(row)] for row in counts_by_step(report)]
    parts = [
        table(["", "documents", "words", "tokens"], rows),
        bullet_list([f"{what}: {how_much}" for what, how_much in shard_facts(report)] + format_notes(report)),
        histogram(report["length_histogram"]),
    ]
    if report["most_duplicated"]:
        parts += [
            "<h2>Most repeated</h2>",
            bullet_list(f"{each['copies']} times: {each['text']}" for each in report["most_duplicated"]),
        ]
    for reason, examples in report["examples"].items():
        if examples:
            parts += [f"<h2>Examples: {html.escape(reason)}</h2>", bullet_list(examples)]
    return framed(f"Corpus {report['name']}", "".join(parts), STYLE)


def format_summary(folder: Path) -> str:
    """What the terminal shows at the end."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    wide = max(len(row[0]) for row in counts_by_step(report)) + 2
    lines = ["", f"  {'':<{wide}}{'documents':>12}{'words':>14}{'tokens':>14}"]
    for row in counts_by_step(report):
        if row[0].startswith("less") and not report["dropped"][row[0].removeprefix("less: ")]["documents"]:
            continue
        lines.append(f"  {row[0]:<{wide}}{row[1]:>12,}{row[2]:>14,}{row[3]:>14,}")
    lines += [
        "",
        *(f"  {what:<12}{how_much}" for what, how_much in shard_facts(report)[1:]),
        *(f"  {note}" for note in format_notes(report)),
        "",
        f"  shards      {folder}",
        f"  report      {folder / 'report.html'}",
    ]
    return "\n".join(lines)


def format_brief_summary(folder: Path) -> str:
    """The few lines that pretraining shows of its text: what there is, and what to be wary of."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    wary = [note for note in format_notes(report) if note.startswith("problem") or "test text of" in note]
    return "\n".join(
        [
            f"text: {report['train']['documents']:,} documents, {report['train']['tokens_per_epoch']:,} tokens in a"
            f" pass; see {folder / 'report.html'}",
            *(f"  {note}" for note in wary),
        ]
    )
