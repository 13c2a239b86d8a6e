"""Report on a corpus: report.json, README.md and report.html in the folder of its shards."""

import json
from pathlib import Path

from markupsafe import Markup

from engine import charts
from engine.files import write_json
from engine.html import render

SPLITS = ("train", "held_out")


def counts_by_step(report: dict) -> list[tuple[str, int, int, int]]:
    """Return (step, documents, words, tokens) left after each step; tokens are estimated except for the last."""
    tokens_per_word = report["tokenizer"]["tokens_per_word"]
    documents, words = report["read"]["documents"], report["read"]["words"]
    rows = [("read and cleaned", documents, words, round(words * tokens_per_word))]
    for reason, counts in report["dropped"].items():
        documents, words = documents - counts["documents"], words - counts["words"]
        rows.append((f"less: {reason}", documents, words, round(words * tokens_per_word)))
    documents, tokens = (sum(report[split][unit] for split in SPLITS) for unit in ("documents", "tokens"))
    return [*rows, ("in shards", documents, words, tokens)]


def format_notes(report: dict) -> list[str]:
    """Return one line per finding that a user should know about."""
    read, notes = report["read"], []
    if read["empty_rows"]:
        notes.append(f"{read['empty_rows']:,} of {read['rows']:,} rows were empty")
    for kind, count in read["fixed"].items():
        if count and kind in ("encoding", "html"):
            notes.append(f"{kind} fixed in {count:,} documents")
        elif count:
            notes.append(f"{count:,} strings masked as [{kind}]")
    for task in report["contamination"]:
        action = "removed" if task["removed"] else "kept, decontaminate.action=remove removes them"
        notes.append(
            f"{task['documents']:,} documents contain test text of {task['name']} ({task['full_matches']:,} of its"
            f" {task['num_test_texts']:,} test texts in full, {task['partial_matches']:,} in part;"
            f" {task['num_too_short']:,} too short to search); {action}"
        )
    if "sentences" in report:
        sentences = report["sentences"]
        notes.append(f"{sentences['dropped']:,} of {sentences['read']:,} sentences were repeats and dropped")
    return notes + [f"problem: {problem}" for problem in read["problems"]]


def read_report(folder: Path) -> dict:
    """Read report.json of a folder of shards."""
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def corpus_summary(folder: Path) -> dict:
    """Return the part of the report that goes into the record of a run."""
    report = read_report(folder)
    return {
        "counts_by_step": counts_by_step(report),
        "notes": format_notes(report),
        "contamination": report["contamination"],
        "languages": sorted({part["language"] for part in report["text_folders"] if part["language"]}),
    }


def write_report(folder: Path, name: str, corpus_manifest: dict, shards_manifest: dict) -> None:
    """Write report.json, README.md and report.html to the folder of shards."""
    corpus_manifest = {key: value for key, value in corpus_manifest.items() if key != "inputs"}
    report = {"name": name, **corpus_manifest, **shards_manifest}
    write_json(folder / "report.json", report)
    for name, template in (("README.md", "report.md.j2"), ("report.html", "report.html.j2")):
        (folder / name).write_text(render_report(f"data/corpus/{template}", report), encoding="utf-8")


def shard_facts(report: dict) -> list[tuple[str, str]]:
    """Return (name, value) pairs that describe the shards."""
    train, held_out, tokenizer = report["train"], report["held_out"], report["tokenizer"]
    parts = [(part["source"], part["language"]) for part in report["text_folders"]]
    sources = [f"{source} ({language})" if language else source for source, language in parts]
    rows = f"{train['rows']:,} of {report['max_length']} positions, {train['fill_fraction']:.1%} filled"
    rates = f"{tokenizer['tokens_per_word']:.2f} per word, {tokenizer['tokens_per_character']:.2f} per character"
    return [
        ("sources", ", ".join(dict.fromkeys(sources))),
        ("rows", f"{rows}; {held_out['rows']:,} held out"),
        ("tokens", f"{train['tokens']:,}, {train['tokens_per_epoch']:,} per epoch; {held_out['tokens']:,} held out"),
        ("tokenizer", f"{report['vocab_size']:,} tokens, {rates}, {tokenizer['unknown_fraction']:.3%} unknown"),
    ]


def example_sections(report: dict) -> dict[str, list[str]]:
    """Return {heading: lines} of the examples, without empty sections."""
    sections = {"Most duplicated": [f"{each['copies']} times: {each['text']}" for each in report["most_duplicated"]]}
    sections |= {f"Examples: {reason}": examples for reason, examples in report["examples"].items()}
    return {heading: lines for heading, lines in sections.items() if lines}


def histogram(counts: list[int]) -> Markup:
    """Return a histogram of document lengths; counts[i] documents have at least 2^(i/2) tokens."""
    used = [index for index, count in enumerate(counts) if count]
    if not used:
        return Markup("")
    shown = range(used[0], used[-1] + 1)
    bins = [f"{2 ** (index // 2):,}" if index % 2 == 0 else "" for index in shown]
    return charts.histogram("documents by number of tokens", bins, [counts[index] for index in shown])


def render_report(template: str, report: dict) -> str:
    """Render the report as a page or as Markdown."""
    return render(
        template,
        title=f"Corpus {report['name']}",
        header=["", "documents", "words", "tokens"],
        rows=[[step, *(f"{count:,}" for count in counts)] for step, *counts in counts_by_step(report)],
        facts=[f"{name}: {value}" for name, value in shard_facts(report)] + format_notes(report),
        histogram=histogram(report["length_histogram"]),
        sections=example_sections(report),
    )


def format_summary(folder: Path) -> str:
    """Format the report for the terminal."""
    report = read_report(folder)
    width = max(len(row[0]) for row in counts_by_step(report)) + 2
    lines = ["", f"  {'':<{width}}{'documents':>12}{'words':>14}{'tokens':>14}"]
    for step, documents, words, tokens in counts_by_step(report):
        if not step.startswith("less: ") or report["dropped"][step.removeprefix("less: ")]["documents"]:
            lines.append(f"  {step:<{width}}{documents:>12,}{words:>14,}{tokens:>14,}")
    lines += [
        "",
        *(f"  {name:<12}{value}" for name, value in shard_facts(report)[1:]),
        *(f"  {note}" for note in format_notes(report)),
        "",
        f"  shards      {folder}",
        f"  report      {folder / 'report.html'}",
    ]
    return "\n".join(lines)


def format_brief_summary(folder: Path) -> str:
    """Format the size of the corpus and its warnings, for the log of pretraining."""
    report = read_report(folder)
    train, path = report["train"], folder / "report.html"
    size = f"text: {train['documents']:,} documents, {train['tokens_per_epoch']:,} tokens per epoch; see {path}"
    notes = [note for note in format_notes(report) if note.startswith("problem") or "test text of" in note]
    return "\n".join([size, *(f"  {note}" for note in notes)])
