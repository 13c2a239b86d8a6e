"""Exported graphs: held to torch by a slow way of the test's own, run without torch, refused where they are wrong."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import error_lines, run_module
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2
from sklearn.metrics import f1_score as label_f1
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    ModernBertConfig,
)

from data.encoders import resolve_encoder

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import onnx_ir  # noqa: E402
from onnxruntime import InferenceSession  # noqa: E402

from publish.export import (
    __main__,  # noqa: E402
    onnx,
    predictions,
)

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "vocab_size": 30522,
    "initializer_range": 0.3,
}  # so that texts are told apart
MODERN = {
    **SIZES,
    "local_attention": 8,
    "pad_token_id": 0,
    "bos_token_id": 101,
    "eos_token_id": 102,
    "cls_token_id": 101,
    "sep_token_id": 102,
}
NAMES = {
    "class": ["bad", "good", "so-so"],
    "labels": ["acting", "plot", "music"],
    "number": ["stars"],
    "tags": ["O", "B-thing", "I-thing"],
}
PROBLEMS = {"class": "single_label_classification", "labels": "multi_label_classification", "number": "regression"}
LONGEST = 24
# The example, where neither torch nor transformers can be imported.
ALONE = (
    "import sys; sys.modules.update(torch=None, transformers=None); import runpy; path = sys.argv.pop(1)\n"
    "sys.argv[0] = path; runpy.run_path(path, run_name='__main__'); assert not sys.modules['torch']"
)


@pytest.fixture(scope="module")
def texts(sentiment_files) -> list[str]:
    """Real sentences, some longer than LONGEST tokens."""
    return (sentiment_files / "corpus.txt").read_text(encoding="utf-8").split("\n\n")[:40]


def label(kind: str, draw: random.Random, text: str):
    """One for a text."""
    if kind == "token_classification":
        return [draw.choice(NAMES["tags"][:2]) for _ in text.split(" ")]
    return {
        "class": draw.choice(NAMES["class"]),
        "labels": draw.sample(NAMES["labels"], draw.randint(0, 3)),
        "number": draw.random(),
    }[kind]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, texts):
    """Makes the folder of a finished run whose network says `kind`, once each."""
    made = {}

    def make(kind: str) -> Path:
        if kind in made:
            return made[kind]
        folder = tmp_path_factory.mktemp("runs") / kind
        inside, draw = folder / ("encoder" if kind == "embedding" else "model"), random.Random(0)
        torch.manual_seed(0)
        if kind == "embedding":
            model = AutoModel.from_config(ModernBertConfig(**MODERN))
        else:
            named = {
                "id2label": dict(enumerate(NAMES[kind])),
                "label2id": {name: at for at, name in enumerate(NAMES[kind])},
            }
            if kind == "token_classification":
                model = AutoModelForTokenClassification.from_config(ModernBertConfig(**MODERN, **named))
            else:
                model = AutoModelForSequenceClassification.from_config(
                    BertConfig(**SIZES, **named, problem_type=PROBLEMS[kind])
                )
            if kind == "multi_label_classification":
                model.config.thresholds = dict(zip(NAMES[kind], (0.3, 0.5, 0.7)))
        model.save_pretrained(inside)
        AutoTokenizer.from_pretrained(resolve_encoder("minilm")).save_pretrained(inside)
        if kind == "embedding":
            (inside / "1_Pooling").mkdir()
            (inside / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "mean"}))
            told, file = {"outputs": []}, "sample.json"
        else:
            told, file = {"labels": [label(kind, draw, text) for text in texts]}, "test.json"
        (folder / file).write_text(json.dumps({"texts": [[text] for text in texts], "max_length": LONGEST, **told}))
        made[kind] = folder
        return folder

    return make


@pytest.fixture(autouse=True)
def threads():
    """The command sets them for its timing."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def one_by_one(folder: Path, texts: list[str], kind: str) -> list[np.ndarray]:
    """What plain transformers says of each text by itself, without padding: logits, or the mean of the states."""
    loader = {"vectors": AutoModel, "tags": AutoModelForTokenClassification}.get(
        kind, AutoModelForSequenceClassification
    )
    model, tokenizer = loader.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    said = []
    for text in texts:
        with torch.no_grad():
            told = model(**tokenizer(text, truncation=True, max_length=LONGEST, return_tensors="pt"))
        said.append((told.last_hidden_state[0].mean(0) if kind == "embedding" else told.logits[0]).numpy())
    return said


def expected_figure(kind: str, said: list[np.ndarray], labels: list, texts: list[str], folder: Path) -> float:
    """The figure by other people's functions."""
    names = np.array(NAMES[kind])
    if kind == "single_label_classification":
        return float(np.mean([names[logits.argmax()] == true for logits, true in zip(said, labels)]))
    if kind == "multi_label_classification":
        decided = torch.tensor(np.array(said)).sigmoid().numpy() >= (0.3, 0.5, 0.7)
        return label_f1([[name in true for name in names] for true in labels], decided, average="micro")
    if kind == "regression":
        ranks = [np.argsort(np.argsort(each)) for each in (np.array(said)[:, 0], labels)]
        return float(np.corrcoef(*ranks)[0, 1])
    tokenizer, tags = AutoTokenizer.from_pretrained(folder), []
    for text, logits in zip(texts, said):
        words = text.split(" ")
        places = tokenizer(words, is_split_into_words=True, truncation=True, max_length=LONGEST).word_ids()
        tags.append(
            [names[logits[places.index(word)].argmax()] if word in places else "O" for word in range(len(words))]
        )
    return f1_score(labels, tags, mode="strict", scheme=IOB2, zero_division=0)


# A graph of another kind of label differs in what is made of its numbers alone, which is tested by itself below.
KINDS = ["class", "tags", "vectors", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("labels", "number"))]


def exported(folder: Path, kind: str) -> Path:
    """The folder of its graphs, with int8 of a class, made once."""
    path = folder / ("encoder" if kind == "embedding" else "model") / "onnx"
    if not path.is_dir():
        __main__.main(
            [
                str(folder),
                "--to",
                "onnx",
                "rounds=1",
                *(["--quantize=int8"] if kind == "single_label_classification" else []),
            ]
        )
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_says_what_torch_says(kind, finished, texts, workspace, capsys):
    folder = finished(kind)
    inside = folder / ("encoder" if kind == "embedding" else "model")
    found = json.loads((exported(folder, kind) / "export.json").read_text())
    told = __main__.summary(found, inside / "onnx")
    said = one_by_one(inside, texts, kind)
    session, tokenizer = InferenceSession(inside / "onnx" / "model.onnx"), AutoTokenizer.from_pretrained(inside)
    assert all(given.shape == ["texts", "tokens"] for given in session.get_inputs())
    for count in (1, 7):  # neither is what was traced
        inputs = dict(tokenizer(texts[:count], truncation=True, max_length=LONGEST, padding=True, return_tensors="np"))
        answer = session.run(None, {given.name: inputs[given.name] for given in session.get_inputs()})[0]
        for mine, theirs in zip(said, answer):
            assert np.abs(mine - (theirs[: len(mine)] if kind == "token_classification" else theirs)).max() < 1e-5
    ways = found["ways"]
    assert found["says"] == kind and found["texts"] == len(texts) and ways["float32"]["max_abs_diff"] < 1e-5
    assert ways["float32"]["megabytes"] > 3 and all(each > 0 for each in ways["float32"]["milliseconds"].values())
    if kind == "embedding":
        assert ways["float32"]["same"] == pytest.approx(1, abs=1e-6) and "mean cosine" in told
        return
    labels = json.loads((folder / "test.json").read_text())["labels"]
    expected = expected_figure(kind, said, labels, texts, inside)
    assert ways["torch"]["figure"] == pytest.approx(expected) and ways["float32"]["figure"] == pytest.approx(expected)
    assert f"{expected:.4f}" in told and found["figure"] in told
    if kind != "regression":
        assert ways["float32"]["same"] == 1 and len({str(each.argmax(-1)) for each in said}) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_needs_no_torch(kind, finished, texts, workspace):
    script = exported(finished(kind), kind) / "example.py"
    inside, lines = script.parent.parent, [line for line in script.read_text().splitlines() if line.strip()]
    assert len(lines) <= (21 if kind == "token_classification" else 20)
    if kind == "single_label_classification":  # as it is for int8 otherwise
        script.write_text(script.read_text().replace("model_int8.onnx", "model.onnx"))
    done = run_module("-c", ALONE, str(script), *texts[:3], prefix=(sys.executable, "-P"), cwd=workspace, PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    lines, said = done.stdout.splitlines(), one_by_one(inside, texts[:3], kind)
    for place, (text, logits) in enumerate(zip(texts, said)):
        if kind == "single_label_classification":
            share = torch.tensor(logits).softmax(-1)
            assert lines[place] == f"{NAMES[kind][int(share.argmax())]}  {share.max():.3f}  {text}"
        elif kind == "multi_label_classification":
            names = [
                name
                for name, logit, least in zip(NAMES[kind], logits, (0.3, 0.5, 0.7))
                if torch.sigmoid(torch.tensor(logit)) >= least
            ]
            assert lines[place] == f"{names} {text}"
        elif kind == "regression":
            assert float(lines[place].split()[0]) == pytest.approx(float(logits[0]), abs=1e-4)
        elif kind == "embedding":
            assert json.loads(lines[place]) == pytest.approx(logits.tolist(), abs=1e-4)
    if kind == "token_classification":
        assert [line.split()[0] for line in lines] == [NAMES[kind][at] for each in said for at in each.argmax(-1)[1:-1]]


def test_int8_is_smaller_and_nearly_the_same(finished, texts, workspace):
    path = exported(finished("class"), "class")
    found = json.loads((path / "export.json").read_text())["ways"]
    assert (
        list(found) == ["torch", "float32", "int8"] and found["int8"]["megabytes"] < 0.4 * found["float32"]["megabytes"]
    )
    assert 1e-5 < found["int8"]["max_abs_diff"] < 0.5 and found["int8"]["same"] > 0.8
    session, tokenizer = InferenceSession(path / "model_int8.onnx"), AutoTokenizer.from_pretrained(path.parent)

    def ask(some: list[str]) -> np.ndarray:
        inputs = dict(tokenizer(some, truncation=True, max_length=LONGEST, padding=True, return_tensors="np"))
        return session.run(["logits"], inputs)[0]

    alone = np.concatenate([ask([text]) for text in texts[:8]])
    assert np.abs(ask(texts[:8]) - alone).max() < 1e-4, "what is said of a text does not depend on those beside it"


def test_what_falls_short_is_told():
    ways = {
        "torch": {"figure": 0.8, "milliseconds": {"1": 10.0}},
        "int8": {"figure": 0.785, "milliseconds": {"1": 6.0}},
    }
    assert __main__.short_of(ways) == [
        "note: int8 loses 1.5 points here; float32 is the one to use",
        "note: int8 is only 1.7 times as fast as torch here, one text at a time",
    ]
    ways["int8"] = {"figure": 0.791, "milliseconds": {"1": 4.0}}
    assert __main__.short_of(ways) == []


def test_a_graph_that_says_something_else_is_refused(finished, workspace, capsys, monkeypatch):
    folder = finished("class")
    off = onnx_ir.load(exported(folder, "class") / "model.onnx")
    last = next(each for each in off.graph.initializers.values() if sorted(each.shape) == [len(NAMES["class"]), 32])
    last.const_value = onnx_ir.tensor(last.const_value.numpy() * np.float32(1.1))
    monkeypatch.setattr(onnx, "export_onnx", lambda network: off)
    before = {path: path.stat().st_mtime_ns for path in (folder / "model").rglob("*")}
    told = error_lines(__main__.main, [str(folder), "rounds=1"], capsys, monkeypatch)
    assert len(told) == 1 and told[0].startswith("the graph does not say what torch says: up to ")
    assert {path: path.stat().st_mtime_ns for path in (folder / "model").rglob("*")} == before


@pytest.mark.parametrize("kind", ["labels", "number"])
def test_what_is_made_of_numbers(kind):
    draw, config = (
        np.random.default_rng(0),
        {
            "id2label": {str(at): name for at, name in enumerate(NAMES[kind])},
            "thresholds": dict(zip(NAMES[kind], (0.3, 0.5, 0.7))),
        },
    )
    said = list(draw.normal(size=(50, len(NAMES[kind]))))
    labels = [label(kind, random.Random(place), "") for place in range(50)]
    told = predictions.decode_outputs(kind, said, config, [])
    assert predictions.compute_metric(kind, told, labels) == pytest.approx(
        expected_figure(kind, said, labels, [], Path())
    )
    assert predictions.agreement(kind, told, told) == (1 if kind == "multi_label_classification" else None)


def test_mistakes(finished, workspace, tmp_path, capsys, monkeypatch):
    def attempt(*words: str) -> list[str]:
        return error_lines(__main__.main, list(words), capsys, monkeypatch)

    assert attempt("nowhere") == ["run: no 'nowhere'"]
    (tmp_path / "out/runs/half").mkdir(parents=True)
    assert attempt("halt") == ["run: no 'halt' (nearest: half)"]
    assert attempt("half") == ["out/runs/half: not finished, neither encoder/ nor model/ is in it"]
    assert attempt("half", "--to", "tflite") == ["to: 'tflite' is none of onnx (there are: onnx)"]
    assert attempt("half", "--quantise", "int8") == ["quantise: no such key (nearest: quantize)"]
    assert attempt("half", "other") == ["other: neither a .yaml file nor key=value"]
    inside = finished("class") / "model"
    (tmp_path / "bare").symlink_to(inside)
    capsys.readouterr()  # what making it said
    assert attempt("bare") == [
        "bare: neither test.json nor sample.json is there to check on; give texts=FILE, a text a line"
    ]
    assert attempt("bare", "texts=gone.txt") == ["texts: no file 'gone.txt'"]
    real = importlib.util.find_spec
    monkeypatch.setattr(__main__, "find_spec", lambda name: None if name == "onnxruntime" else real(name))
    assert attempt("bare") == ["to: onnxruntime not installed; pip install onnx onnxscript onnxruntime"]
    monkeypatch.setattr(__main__, "find_spec", real)
    monkeypatch.setitem(
        sys.modules, "publish.export.onnx", None
    )  # as with transformers before 5.20, which has not what it imports
    monkeypatch.delattr("publish.export.onnx")
    (line,) = attempt("bare")
    assert line.startswith("to: ") and line.endswith("; pip install -U transformers onnx onnxscript onnxruntime")
