"""Render study.json as a self-contained HTML page and as the terminal's table."""

from html import escape
from pathlib import Path

from data.contamination import describe_contamination
from engine.html import bullet_list, page, table
from finetune.study.statistics import format_percent, format_points

MAX_TEXT_CHARS = 400
STYLE = """
.second{font-size:1.12rem;margin:.2rem 0 .8rem}
.matrix{width:auto}.matrix td.right{font-weight:bold;background:#eee}
.mistake{margin:.7rem 0;padding-left:.8rem;border-left:3px solid #111;overflow-wrap:anywhere}
.mistake small{display:block;color:#555}
@media print{svg{width:82%}.mistake{margin:.35rem 0;break-inside:avoid}}
"""


def format_mean(point: dict) -> str:
    """Format a mean and its interval as HTML."""
    interval = "deterministic" if point["deterministic"] else "one seed"
    if point["low"] is not None:
        interval = f"{100 * point['low']:.1f} to {100 * point['high']:.1f}"
    return f"{100 * point['mean']:.1f}<small>{interval}</small>"


def format_gain(gain: dict) -> str:
    """Format a difference, its interval and its p-value as HTML."""
    difference = format_points(gain["difference"])
    if gain["low"] is None:
        return f"{difference}<small>one seed</small>"
    p_value = "p < 0.001" if gain["p"] < 0.001 else f"p = {gain['p']:.3f}"
    interval = f"{format_points(gain['low'])} to {format_points(gain['high'])}"
    return f"{difference}<small>{interval}</small><small>{p_value}</small>"


def truncate(text: str) -> str:
    """Truncate a text to MAX_TEXT_CHARS."""
    return text if len(text) <= MAX_TEXT_CHARS else text[: MAX_TEXT_CHARS - 3] + "..."


def list_sizes(study: dict) -> list[int]:
    """Return the numbers of labels on the curve."""
    return sorted({point["num_examples"] for points in study["curve"].values() for point in points})


def render_results(study: dict) -> str:
    """Render the means with their intervals and the gain over each baseline."""
    sizes = list_sizes(study)
    header = ["", *(f"{size:,}<small>labels</small>" for size in sizes)]

    def row(variant: str, cells: dict[int, str]) -> list[str]:
        return [escape(study["variants"][variant]), *(cells.get(size, "–") for size in sizes)]

    means, gains = (
        [row(variant, {point["num_examples"]: cell(point) for point in points}) for variant, points in curves.items()]
        for curves, cell in ((study["curve"], format_mean), (study["paired_differences"], format_gain))
    )
    first, *others = study["sentences"].values() or [{}]
    sentences = [text for pair in others for text in pair.values() if text and text not in first.values()]
    return (
        f"<h2>{escape(study['metric'].capitalize())}, %</h2>{table(header, means, 'curve', highlight_first=True)}"
        "<p class=beneath>Means over seeds, with 95% intervals (Student's t).</p>"
        f"<h2>Gain over each baseline, percentage points</h2>{table(header, gains, 'gains')}"
        "<p class=beneath>Paired by labels and seed, with 95% intervals and p-values of the paired t-test at each"
        f" number of labels.</p>{bullet_list(sentences)}"
    )


def render_mistakes(study: dict) -> str:
    """Render the confusion matrix and the most confident mistakes."""
    errors = study.get("errors")
    if not errors:
        return ""
    names = [escape(name) for name in errors["label_names"]]
    header = "".join(f"<th><small>predicted</small>{name}</th>" for name in names)
    body = ""
    for index, (name, counts) in enumerate(zip(names, errors["confusion_matrix"], strict=True)):
        cells = (f"<td{' class=right' if i == index else ''}>{count:,}</td>" for i, count in enumerate(counts))
        body += f"<tr><td><small>label</small>{name}</td>{''.join(cells)}</tr>"
    mistakes = "".join(
        f"<div class=mistake><small>predicted {escape(one['prediction'])} ({format_percent(one['confidence'])}),"
        f" label {escape(one['label'])}</small>{escape(truncate(one['text']))}</div>"
        for one in errors["mistakes"]
    )
    caption = f"<p class=beneath>Our encoder with {errors['num_examples']:,} labels, seed {errors['seed']}.</p>"
    return (
        f"<h2>Confusion matrix</h2>{caption}<table class=matrix><thead><tr><th></th>{header}</tr></thead>"
        f"<tbody>{body}</tbody></table><h2>Most confident mistakes</h2>{caption}{mistakes}"
    )


def render_page(study: dict, svg: str) -> str:
    """Render the report. svg: the plot."""
    reproduction, trials, overlaps = study["reproduction"], study["trials"], study["contamination"]
    first = next(iter(study["sentences"].values()), {"match": None})
    second = f"<p class=second>{escape(first['gain'])}</p>" if first["match"] else ""
    unfinished = f"<b>Not finished:</b> {trials['completed']} of {trials['planned']} trials are complete."
    unfinished = f"<p class=beneath>{unfinished}</p>" if trials["completed"] < trials["planned"] else ""
    skipped = bullet_list([f"{study['titles'][variant]}: {why}" for variant, why in study["skipped"].items()])
    pairs = "".join(
        f"<div class=mistake><small>test text</small>{escape(test)}<small>training text</small>{escape(train)}</div>"
        for test, train in overlaps["training_overlap"]["examples"]
    )
    hashes = reproduction["weight_hashes"].items()
    weights = [f"{variant} {name} {value}\n" for variant, files in hashes for name, value in files.items()]
    packages = ", ".join(f"{name} {version}" for name, version in reproduction["versions"].items())
    label = f'<svg role="img" aria-label="{escape(study["metric"])} against the number of labels"'
    # The XML header in front of the <svg> element is not valid inside HTML.
    svg = svg[svg.index("<svg") :].replace("<svg", label, 1)
    return page(
        f"What pretraining is worth: {study['task']}",
        f"""<p class="sentence" id="sentence">{escape(study["sentence"])}</p>{second}{unfinished}
<p class="beneath">Encoder: {escape(study["encoder"])}. All variants are trained on the same labels and measured on the
same {overlaps["num_measured_rows"]:,} test rows. No validation labels are used.</p>
{svg}
{render_results(study)}{skipped if study["skipped"] else ""}
{render_mistakes(study)}
<h2>Contamination of the test rows</h2>{bullet_list(describe_contamination(overlaps))}
{f"<details><summary>Examples of near matches</summary>{pairs}</details>" if pairs else ""}
<h2>Reproduction</h2><pre>{escape(reproduction["command"])}</pre>
<p class="beneath">{escape(packages)}.
{reproduction["threads"]} thread{"s" * (reproduction["threads"] > 1)}, {escape(reproduction["precision"])}.
Task {reproduction["task_fingerprint"]}, measured rows {reproduction["rows_fingerprint"]}. The full configuration is in
study.json.</p>
<details><summary>SHA-256 of the weights</summary><pre>{escape("".join(weights))}</pre></details>""",
        STYLE,
    )


def format_study_summary(study: dict, folder: Path) -> str:
    """Format the terminal's summary."""
    sizes, variants = list_sizes(study), study["variants"]
    width = max(map(len, variants.values())) + 2

    def mean(point: dict) -> str:
        half = "" if point["high"] is None else f" ± {100 * (point['high'] - point['mean']):.1f}"
        return f"{100 * point['mean']:.1f}{half}"

    lines = ["", f"  {study['metric'] + ', %':<{width}}{''.join(f'{size:>14,}' for size in sizes)}   labels"]
    for variant, points in study["curve"].items():
        cells = {point["num_examples"]: mean(point) for point in points}
        lines.append(f"  {variants[variant]:<{width}}" + "".join(f"{cells.get(size, '-'):>14}" for size in sizes))
    lines += [
        "",
        f"  {study['sentence']}",
        *(f"  {study['titles'][variant]}: {why}" for variant, why in study["skipped"].items()),
        "",
        f"  report  {folder / 'report.html'}",
        f"  curve   {folder / 'study.png'}, {folder / 'study.svg'}",
        f"  all     {folder / 'study.json'}",
    ]
    return "\n".join(lines)
