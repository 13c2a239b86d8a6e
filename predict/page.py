"""The page of a prediction: a self-contained HTML file."""

from engine.html import render
from predict.pictures import Picture
from predict.summary import Summary
from predict.why import list_reasons


def format_label(label: object, probability: object, score: float | None = None) -> str:
    """Return a label and its probability, or its score, as text."""
    if score is not None:
        return f"{label} {score:.4g}"
    if isinstance(label, list):
        parts = [part["label"] + " " + part["text"] if isinstance(part, dict) else str(part) for part in label]
        return ", ".join(parts) or "none"
    return f"{label}" if probability is None else f"{label} {probability:.3f}"


def shares_table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Return (header, rows) of the shares of labels."""
    is_corrected = any("corrected" in share for share in summary.shares)
    has_training = any("training" in share for share in summary.shares)
    header = [
        "label",
        "rows",
        "share",
        *["corrected share", "95% interval"] * is_corrected,
        *["training"] * has_training,
    ]
    rows = []
    for share in summary.shares:
        row = [share["label"], f"{share['count']:,}", f"{share['share']:.1%}"]
        if is_corrected:
            row += [f"{share['corrected']:.1%}", f"{share['low']:.1%} to {share['high']:.1%}"]
        if has_training:
            row.append(f"{share['training']:.1%}")
        rows.append(row)
    return header, rows


def render_page(summary: Summary, pictures: dict[int, Picture]) -> str:
    """Return the page. pictures: of some rows, by their number."""
    doubtful = [
        [
            f"{entry['row']:,}",
            format_label(entry["label"], entry.get("probability"), entry.get("score")),
            [entry["text"], *list_reasons(entry.get("why") or {})],
        ]
        for entry in summary.doubtful
        if entry["row"] not in pictures
    ]
    shown = [
        {
            "title": f"{entry['row']:,}: {format_label(entry['label'], entry['probability'])}",
            "picture": pictures[entry["row"]],
            "lines": [entry["text"], *list_reasons(entry.get("why") or {})],
        }
        for entry in summary.doubtful
        if entry["row"] in pictures
    ]
    return render(
        "predict/page.html.j2",
        title=f"Predictions {summary.rows_path}",
        sentence=f"{summary.rows:,} rows, predicted by {summary.model}",
        notes=[line.strip() for line in summary.describe_doubt()],
        shares=shares_table(summary),
        doubtful=(["row", "label", "image" if pictures else "text"], doubtful),
        shown=shown,
        is_detector=summary.false_alarms is not None,
    )
