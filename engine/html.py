"""HTML of reports: self-contained pages that are also readable in black and white and on paper."""

import html
import itertools

STYLE = """
:root{color-scheme:light}
body{font:15px/1.5 Georgia,'Times New Roman',serif;max-width:54rem;margin:2rem auto;padding:0 1.2rem;
color:#111;background:#fff}
h1{font-size:1.05rem;font-weight:normal;color:#555;margin:0}
h2{font-size:1.05rem;margin:1.9rem 0 .5rem;border-top:1px solid #111;padding-top:.4rem}
.sentence{font-size:1.55rem;line-height:1.3;margin:.3rem 0 .8rem}
.beneath{color:#444;margin:.2rem 0}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:.28rem .5rem;text-align:right;vertical-align:top;border-bottom:1px solid #ccc}
th{font-weight:normal;color:#444;vertical-align:bottom}td:first-child,th:first-child{text-align:left;padding-left:0}
tr.ours td{font-weight:bold}td small,th small{font-weight:normal;color:#555;display:block;white-space:nowrap}
svg{width:100%;height:auto;display:block;margin:.6rem 0}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.8rem;background:#f5f5f5;padding:.6rem;margin:.5rem 0}
li{overflow-wrap:anywhere}details{margin:.5rem 0}
@media print{body{margin:0;max-width:none;font-size:11px}.sentence{font-size:1.3rem}@page{margin:14mm}
h2{margin:1rem 0 .3rem;break-after:avoid}tr,svg{break-inside:avoid}pre{background:none;border:1px solid #ccc}}
"""


def page(title: str, body: str, style: str = "") -> str:
    """Make an HTML page of a text title and an HTML body; style: additional CSS."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title><style>{STYLE}{style}</style></head><body>
<h1>{html.escape(title)}</h1>
{body}
</body></html>
"""


def table(header: list[str], rows: list[list[str]], css_class: str = "", highlight_first: bool = False) -> str:
    """Make an HTML table of HTML cells; highlight_first: whether the first row is bold."""

    def make_row(row: list[str], tag: str, highlight: bool = False) -> str:
        return f"<tr{' class=ours' if highlight else ''}>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in row) + "</tr>"

    body = "".join(make_row(row, "td", highlight_first and not index) for index, row in enumerate(rows))
    return f"<table class='{css_class}'><thead>{make_row(header, 'th')}</thead><tbody>{body}</tbody></table>"


def bullet_list(lines: list[str]) -> str:
    """Make an HTML list of texts."""
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def declutter(heights: list[float], min_gap: float, low: float, high: float) -> list[float]:
    """Move heights of labels apart by `min_gap`, as little as possible, in order and between `low` and `high`."""
    order, moved = sorted(range(len(heights)), key=heights.__getitem__), list(heights)
    for _ in range(200):
        for below, above in itertools.pairwise(order):
            overlap = min_gap - (moved[above] - moved[below])
            if overlap > 1e-9:
                moved[below], moved[above] = moved[below] - overlap / 2, moved[above] + overlap / 2
        moved = [min(max(height, low), high) for height in moved]
    return moved
