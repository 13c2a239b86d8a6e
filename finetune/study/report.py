"""The study for a person: a page that needs nothing else, and the terminal's table. Every number is study.json's."""

from __future__ import annotations

import html
from pathlib import Path

from engine.html import page as framed, table
from finetune.study.contamination import describe_contamination
from finetune.study.statistics import format_percent, format_points

MAX_TEXT_CHARS = 400  # characters of a text that are shown
STYLE = """
.second{font-size:1.12rem;margin:.2rem 0 .8rem}
.matrix{width:auto}.matrix td.right{font-weight:bold;background:#eee}
.mistake{margin:.7rem 0;padding-left:.8rem;border-left:3px solid #111;overflow-wrap:anywhere}
.mistake small{display:block;color:#555}
@media print{svg{width:82%}.mistake{margin:.35rem 0;break-inside:avoid}}
"""


def format_interval(point: dict) -> str:
    """A mean's interval, and what it is over."""
    if point["low"] is not None:
        return f"{100 * point['low']:.1f} to {100 * point['high']:.1f}"
    return "deterministic" if point["certain"] else "one seed"


def format_significance(gain: dict) -> str:
    """A difference's interval and p."""
    if gain["low"] is None:
        return "one seed"
    return f"{format_points(gain['low'])} to {format_points(gain['high'])}</small><small>{format_p_value(gain['p'])}"


def truncate(text: str) -> str:
    """The beginning of a text."""
    return text if len(text) <= MAX_TEXT_CHARS else text[: MAX_TEXT_CHARS - 3] + "..."


def format_p_value(p_value: float | None) -> str:
    return "" if p_value is None else "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def render_results(study: dict) -> str:
    """Means with their intervals, then ours less each other way."""
    sizes = sorted({point["labels"] for points_of in study["curve"].values() for point in points_of})
    head = ["", *(f"{size:,}<small>labels</small>" for size in sizes)]

    def row(title: str, found: dict[int, str]) -> list[str]:
        return [html.escape(title), *(found.get(size, "–") for size in sizes)]

    means = [
        row(
            study["ways"][way],
            {point["labels"]: f"{100 * point['mean']:.1f}<small>{format_interval(point)}</small>" for point in own},
        )
        for way, own in study["curve"].items()
    ]
    gains = [
        row(
            study["ways"][way],
            {
                each["labels"]: f"{format_points(each['difference'])}<small>{format_significance(each)}</small>"
                for each in own
            },
        )
        for way, own in study["paired"].items()
    ]
    above = list(next(iter(study["sentences"].values()), {}).values())  # they stand at the top of the page
    said = "".join(
        f"<li>{html.escape(sentence)}</li>"
        for told in study["sentences"].values()
        for sentence in (told["match"], told["gain"])
        if sentence and sentence not in above
    )
    return (
        f"<h2>{html.escape(study['figure'].capitalize())}, %</h2>{table(head, means, 'curve', highlight_first=True)}"
        "<p class=beneath>Means over seeds; beneath them 95 % intervals (Student's t).</p>"
        f"<h2>Ours less each of the others, in points</h2>{table(head, gains, 'gains')}"
        "<p class=beneath>Paired: the same labels, the same seeds. 95 % intervals and p of the paired t-test, for"
        f" each number of labels by itself.</p><ul>{said}</ul>"
    )


def render_mistakes(study: dict) -> str:
    """The confusion matrix and the most confident mistakes."""
    told = study.get("shown")
    if not told:
        return ""
    names = [html.escape(name) for name in told["names"]]
    head = "<th></th>" + "".join(f"<th><small>said</small>{name}</th>" for name in names)
    body = "".join(
        f"<tr><td><small>is</small>{name}</td>"
        + "".join(f"<td{' class=right' if at == number else ''}>{count:,}</td>" for at, count in enumerate(counts))
        + "</tr>"
        for number, (name, counts) in enumerate(zip(names, told["confusion_matrix"]))
    )
    matrix = f"<table class=matrix><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    each = "".join(
        f"<div class=mistake><small>said {html.escape(one['said'])}, {format_percent(one['confidence'])} sure;"
        f" is {html.escape(one['true'])}</small>{html.escape(truncate(one['text']))}</div>"
        for one in told["mistakes"]
    )
    of = f"Ours with {told['labels']:,} labels, seed {told['seed']}"
    return (
        f"<h2>Which classes are taken for which</h2><p class=beneath>{of}.</p>{matrix}"
        f"<h2>The most confident mistakes</h2><p class=beneath>{of}.</p>{each}"
    )


def render_page(study: dict, svg: str) -> str:
    """The whole page. svg: the plot as SVG."""
    repeat, unfinished = study["repeat"], ""
    if study["cells"]["done"] < study["cells"]["planned"]:
        unfinished = (
            f"<p class=beneath><b>Not finished:</b> {study['cells']['done']} of {study['cells']['planned']}"
            " cells are measured.</p>"
        )
    title = f"What pretraining is worth: {study['task']}"
    first = next(iter(study["sentences"].values()), {"match": None})
    second = f"<p class=second>{html.escape(first['gain'])}</p>" if first["match"] else ""
    left_out = "".join(
        f"<li>{html.escape(study['titles'][way])}: {html.escape(why)}</li>" for way, why in study["left_out"].items()
    )
    looked = "".join(f"<li>{html.escape(line)}</li>" for line in describe_contamination(study["contamination"]))
    alike = "".join(
        f"<div class=mistake><small>a test text</small>{html.escape(one)}<small>a training text</small>"
        f"{html.escape(other)}</div>"
        for one, other in study["contamination"]["labels"]["examples"]
    )
    weights = "".join(
        f"{html.escape(way)} {html.escape(name)} {value}\n"
        for way, files in repeat["weights"].items()
        for name, value in files.items()
    )
    packages = ", ".join(f"{name} {version}" for name, version in repeat["versions"].items())
    # Only what matplotlib wrote after its XML head may stand inside a page.
    svg = svg[svg.index("<svg") :].replace(
        "<svg", f'<svg role="img" aria-label="{html.escape(study["figure"])} against the number of labels"', 1
    )
    return framed(
        title,
        f"""<p class="sentence" id="sentence">{html.escape(study["sentence"])}</p>{second}{unfinished}
<p class="beneath">Encoder: {html.escape(study["encoder"])}. Every way learns from the same labels and is measured on
the same {study["contamination"]["measured"]:,} test rows. No way uses a validation label: the number of labels told is
the number used.</p>
{svg}
{render_results(study)}{f"<ul>{left_out}</ul>" if left_out else ""}
{render_mistakes(study)}
<h2>Test rows that might have been seen</h2><ul>{looked}</ul>
{f"<details><summary>Nearly the same, for example</summary>{alike}</details>" if alike else ""}
<h2>To repeat it</h2><pre>{html.escape(repeat["command"])}</pre>
<p class="beneath">{html.escape(packages)}.
{repeat["threads"]} thread{"s" * (repeat["threads"] > 1)}, {html.escape(repeat["precision"])}.
Labelled rows {repeat["data"]}, measured rows {repeat["rows"]}. The whole configuration is in study.json beside this
page.</p>
<details><summary>SHA-256 of the weights</summary><pre>{weights}</pre></details>""",
        STYLE,
    )


def format_study_summary(study: dict, folder: Path) -> str:
    """What the terminal shows at the end."""
    sizes = sorted({point["labels"] for own in study["curve"].values() for point in own})
    wide = max(len(study["ways"][way]) for way in study["curve"]) + 2
    out = ["", f"  {study['figure'] + ', %':<{wide}}" + "".join(f"{size:>14,}" for size in sizes) + "   labels"]
    for way, own in study["curve"].items():
        told = {
            point["labels"]: f"{100 * point['mean']:.1f}"
            + (f" ± {100 * (point['high'] - point['mean']):.1f}" if point["high"] is not None else "")
            for point in own
        }
        out.append(f"  {study['ways'][way]:<{wide}}" + "".join(f"{told.get(size, '-'):>14}" for size in sizes))
    out += [
        "",
        f"  {study['sentence']}",
        *(f"  {study['titles'][way]}: {why}" for way, why in study["left_out"].items()),
        "",
        f"  report  {folder / 'report.html'}",
        f"  curve   {folder / 'study.png'}, {folder / 'study.svg'}",
        f"  all     {folder / 'study.json'}",
    ]
    return "\n".join(out)
