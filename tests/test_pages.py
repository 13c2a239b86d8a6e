"""Hostile texts in pages and in the model card, as a browser shows them."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
import yaml
from browser import load_page

from data.corpus import report as corpus_report
from engine.html import escape_markdown
from publish import compare
from publish.card.card import build_model_card
from publish.report.run_report import render_report, result_sentence
from publish.report.runs import LoadedRun

SCRIPT = "<script>alert(1)</script>"
HOSTILE = f"{SCRIPT}<img src=x onerror=\"document.title='taken'\"> `</code>` | $x$ **bold** [a](b)"
LOG = [{"step": step, "loss": 1 / step, f"eval/{HOSTILE}": step / 7} for step in (1, 2, 3)]
FORBIDDEN = {"script", "img", "iframe", "object", "a", "strong", "em"}


class Page(HTMLParser):
    """The elements of a page and its text."""

    def __init__(self, page: str):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def render_corpus(template: str) -> str:
    counts = {"documents": 3, "words": 4, "tokens": 5, "rows": 2, "fill_fraction": 0.5, "tokens_per_epoch": 5}
    report = {
        "name": HOSTILE,
        "read": {"documents": 4, "words": 6, "rows": 4, "empty_rows": 0, "fixed": {}, "problems": [HOSTILE]},
        "dropped": {HOSTILE: {"documents": 1, "words": 2}},
        "contamination": [],
        "text_folders": [{"source": HOSTILE, "language": "en"}],
        "tokenizer": {"tokens_per_word": 1.2, "tokens_per_character": 0.3, "unknown_fraction": 0.0},
        "train": counts,
        "held_out": counts,
        "max_length": 32,
        "vocab_size": 100,
        "length_histogram": [0, 1, 2, 3],
        "most_duplicated": [{"copies": 2, "text": HOSTILE}],
        "examples": {HOSTILE: [HOSTILE]},
    }
    return corpus_report.render_report(template, report)


def render_run(log: list[dict] = LOG) -> str:
    test = {"n": 3, "accuracy": 0.5}
    metrics = {"task": HOSTILE, "encoder": HOSTILE, "report_metrics": ["accuracy"], "num_train_examples": 2}
    metrics |= {"test": test, "baselines": {"a": {"name": HOSTILE, "test": test}}}
    return render_report(HOSTILE, log, metrics, f"task: {HOSTILE}")


def test_a_run_without_training_steps_has_no_empty_section():
    assert "<h2>Training</h2>" in render_run() and "<h2>Training</h2>" not in render_run([])


def render_comparison() -> str:
    loaded = [LoadedRun(name, {"task.name": name}, LOG, {}) for name in (HOSTILE, "other")]
    return compare.render_comparison({run.name: run for run in loaded})


@pytest.fixture(scope="module")
def hostile_record(tmp_path_factory) -> dict:
    """The record of a model with hostile names and texts."""
    stage = {
        "hardware": {"cpu": HOSTILE, "cpu_cores": 2, "gpus": [HOSTILE], "estimated_watts": 20},
        "precision": HOSTILE,
        "run": HOSTILE,
        "seconds": 3,
        "steps": 2,
        "shards": HOSTILE,
        "versions": {HOSTILE: HOSTILE},
    }
    train = {"steps": 2, "load_best": True, "note": HOSTILE}
    settings = {"train": train, "dropout": 0.1, "seed": 0, "encoder": HOSTILE, "max_length": 32}
    encoder = stage | {
        "kind": "encoder",
        "init": HOSTILE,
        "init_record": None,
        "config": settings | {"corpus": {"name": HOSTILE, "sources": []}, "objective": {"name": HOSTILE}},
        "corpus_summary": {
            "counts_by_step": [[HOSTILE, 1, 2, 3]],
            "notes": [HOSTILE, f"- {HOSTILE}\n# {HOSTILE}"],
            "languages": ["en"],
            "contamination": [
                {"name": HOSTILE, "documents": 1, "removed": True}
                | dict.fromkeys(("full_matches", "partial_matches", "num_test_texts"), 1)
            ],
        },
        "licenses": {"corpus": {HOSTILE: HOSTILE}},
        "shards_manifest": {"train": {"documents": 1, "tokens": 2}, "held_out": {"documents": 1, "rows": 1}},
    }
    test = {"n": 3, "accuracy": 0.5}
    return stage | {
        "kind": "model",
        "problem_type": "single_label_classification",
        "label_names": [HOSTILE, "b"],
        "encoder_record": encoder,
        "rows": {"train": 2, HOSTILE: 3},
        "config": settings | {"task": {"name": HOSTILE}, "head": {"name": HOSTILE}},
        "report_metrics": ["accuracy"],
        "metrics": {"test": test},
        "baselines": {"a": {"name": HOSTILE, "test": test}},
        "licenses": {"labels": {HOSTILE: HOSTILE}},
    }


def render_markdown(text: str) -> str:
    """Render Markdown as a hub does, with HTML in it and without front matter."""
    markdown = pytest.importorskip("markdown")
    body = markdown.markdown(re.sub(r"(?s)\A---\n.*?\n---\n", "", text), extensions=["tables", "fenced_code"])
    return f"<!doctype html><title>Card</title><body>{body}"


def check_in_a_browser(page: str, folder, allowed: set[str] = frozenset()) -> Page:
    """Check that no element or handler comes from a text, and that the texts are shown."""
    (folder / "page.html").write_text(page, encoding="utf-8")
    dom, requests = load_page(folder / "page.html", folder / "profile")
    shown = Page(dom)
    assert set(requests) <= {"/page.html", "/favicon.ico"}
    assert not {tag for tag, _ in shown.elements} & (FORBIDDEN - allowed)
    assert not [attributes for _, attributes in shown.elements if any(name.startswith("on") for name in attributes)]
    assert SCRIPT in shown.text and HOSTILE in " ".join(shown.text.split()) and "<title>taken" not in dom
    return shown


@pytest.mark.parametrize("page", [render_run, render_comparison, lambda: render_corpus("data/corpus/report.html.j2")])
def test_texts_of_pages_are_shown_as_text(page, tmp_path):
    shown = check_in_a_browser(page(), tmp_path)
    assert [tag for tag, _ in shown.elements].count("h1") == 1
    assert HOSTILE in [attributes for tag, attributes in shown.elements if tag == "svg"][-1].get("aria-label", "") or (
        "svg" in [tag for tag, _ in shown.elements]
    )


def test_texts_of_the_card_are_shown_as_text(hostile_record, tmp_path):
    markdown = build_model_card(hostile_record, "me/name", {"model": "mit"})
    shown = check_in_a_browser(render_markdown(markdown), tmp_path, {"strong"})
    tags = [tag for tag, _ in shown.elements]
    assert tags.count("h1") == 1 and tags.count("h2") == 9 and tags.count("pre") == 2 and tags.count("table") == 3
    assert tags.count("strong") == 2 and shown.text.count(SCRIPT) > 20


def test_texts_of_the_readme_of_a_corpus_are_shown_as_text(tmp_path):
    check_in_a_browser(render_markdown(render_corpus("data/corpus/report.md.j2")), tmp_path)


@pytest.mark.parametrize("text", ["# a", "- a", "+ a", "1. a", "> a", "_a_", "a\n# b", "&lt;", r"\*", "~~a~~", "--- a"])
def test_markdown_in_a_text_is_shown_as_text(text):
    page = Page(render_markdown(escape_markdown(text)))
    assert page.text.removeprefix("Card").strip() == " ".join(text.split())
    assert {tag for tag, _ in page.elements} == {"title", "body", "p"}


def test_ordinary_names_stay_readable_in_markdown():
    for text in (
        "f1_macro",
        "TF-IDF + logistic regression",
        "3.5 points",
        "reviews & sentences (en)",
        "a_b-c.csv: x=1",
    ):
        assert escape_markdown(text) == text


def test_a_card_has_one_front_matter_and_no_control_characters(hostile_record):
    name = "a\x1b[31m\u202e\n---\nb: c\n---\n"
    record = json.loads(json.dumps(hostile_record).replace(json.dumps(HOSTILE)[1:-1], json.dumps(name)[1:-1]))
    card = build_model_card(record)
    assert "\x1b" not in card and "\u202e" not in card
    front_matter = re.match(r"(?s)---\n(.*?)\n---\n(.*)", card)
    assert yaml.safe_load(front_matter[1])["library_name"] == "transformers"
    assert not re.search(r"(?m)^---", front_matter[2])


def test_a_run_with_evaluations_alone_has_no_loss_in_its_sentence():
    assert result_sentence([{"step": 3, "eval/loss": 1.0}], {}) == "No training loss logged yet"
    assert result_sentence([], {}) == "Nothing logged yet"
    expected = "Training loss 2.000 at step 1, 2.000 at step 1"
    assert result_sentence([{"step": 1, "loss": 2.0}, {"step": 1, "eval/loss": 1.0}], {}) == expected
