"""ONNX export: graphs match torch, run without it, and are refused where they differ."""

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

import onnx_ir  # noqa: E402 (skipped above where onnx is missing)
from onnxruntime import InferenceSession  # noqa: E402

from data.tasks.problem_types import load_problem_type
from publish.export import __main__ as export, onnx  # noqa: E402
from publish.hub.checks import check_secrets  # noqa: E402

SINGLE, MULTI = "single_label_classification", "multi_label_classification"
REGRESSION, TOKENS, EMBEDDING = "regression", "token_classification", "embedding"
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "vocab_size": 30522,
    "initializer_range": 0.3,  # so that texts get different outputs
}
MODERN_BERT = {
    **SIZES,
    "local_attention": 8,
    "pad_token_id": 0,
    "bos_token_id": 101,
    "eos_token_id": 102,
    "cls_token_id": 101,
    "sep_token_id": 102,
}
NAMES = {
    SINGLE: ["bad", "good", "so-so"],
    MULTI: ["acting", "plot", "music"],
    REGRESSION: ["stars"],
    TOKENS: ["O", "B-thing", "I-thing"],
}
THRESHOLDS = (0.3, 0.5, 0.7)
MAX_LENGTH = 24
# Run the example script where neither torch nor transformers can be imported.
WITHOUT_TORCH = (
    "import sys; sys.modules.update(torch=None, transformers=None); import runpy; path = sys.argv.pop(1)\n"
    "sys.argv[0] = path; runpy.run_path(path, run_name='__main__'); assert not sys.modules['torch']"
)
# Graphs of the other problem types differ only in how predictions are decoded, which has a test of its own.
PROBLEM_TYPES = [
    SINGLE,
    TOKENS,
    EMBEDDING,
    *(pytest.param(problem_type, marks=pytest.mark.slow) for problem_type in (MULTI, REGRESSION)),
]


@pytest.fixture(scope="module")
def texts(sentiment_files) -> list[str]:
    """Real sentences, some longer than MAX_LENGTH tokens."""
    return (sentiment_files / "corpus.txt").read_text(encoding="utf-8").split("\n\n")[:40]


def random_label(problem_type: str, rng: random.Random, text: str):
    if problem_type == TOKENS:
        return [rng.choice(NAMES[TOKENS][:2]) for _ in text.split(" ")]
    return {
        SINGLE: rng.choice(NAMES[SINGLE]),
        MULTI: rng.sample(NAMES[MULTI], rng.randint(0, 3)),
        REGRESSION: rng.random(),
    }[problem_type]


def inner_folder(run_folder: Path, problem_type: str) -> Path:
    return run_folder / ("encoder" if problem_type == EMBEDDING else "model")


def make_model(problem_type: str):
    torch.manual_seed(0)
    if problem_type == EMBEDDING:
        return AutoModel.from_config(ModernBertConfig(**MODERN_BERT))
    names = NAMES[problem_type]
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    if problem_type == TOKENS:
        return AutoModelForTokenClassification.from_config(ModernBertConfig(**MODERN_BERT, **labels))
    model = AutoModelForSequenceClassification.from_config(BertConfig(**SIZES, **labels, problem_type=problem_type))
    if problem_type == MULTI:
        model.config.thresholds = dict(zip(names, THRESHOLDS, strict=True))
    return model


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory, texts):
    """Create the folder of a finished run with a model of a problem type, once each."""
    folders = {}

    def make(problem_type: str) -> Path:
        if problem_type in folders:
            return folders[problem_type]
        folder, rng = tmp_path_factory.mktemp("runs") / problem_type, random.Random(0)
        inside = inner_folder(folder, problem_type)
        make_model(problem_type).save_pretrained(inside)
        AutoTokenizer.from_pretrained(resolve_encoder("minilm")).save_pretrained(inside)
        if problem_type == EMBEDDING:
            (inside / "1_Pooling").mkdir()
            (inside / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "mean"}))
            content, file = {"outputs": []}, "sample.json"
        else:
            content, file = {"labels": [random_label(problem_type, rng, text) for text in texts]}, "test.json"
        content |= {"texts": [[text] for text in texts], "max_length": MAX_LENGTH}
        (folder / file).write_text(json.dumps(content))
        folders[problem_type] = folder
        return folder

    return make


@pytest.fixture(autouse=True)
def restore_threads():
    """Undo the number of threads that the command sets for timing."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def reference_outputs(folder: Path, texts: list[str], problem_type: str) -> list[np.ndarray]:
    """Outputs of transformers for each text alone, without padding: logits, or the mean of the hidden states."""
    auto_class = {EMBEDDING: AutoModel, TOKENS: AutoModelForTokenClassification}.get(
        problem_type, AutoModelForSequenceClassification
    )
    model, tokenizer = auto_class.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    outputs = []
    for text in texts:
        with torch.no_grad():
            output = model(**tokenizer(text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt"))
        outputs.append((output.last_hidden_state[0].mean(0) if problem_type == EMBEDDING else output.logits[0]).numpy())
    return outputs


def reference_score(
    problem_type: str, outputs: list[np.ndarray], labels: list, texts: list[str], folder: Path
) -> float:
    """The metric, by functions of other packages."""
    names = np.array(NAMES[problem_type])
    if problem_type == SINGLE:
        correct = [names[logits.argmax()] == label for logits, label in zip(outputs, labels, strict=True)]
        return float(np.mean(correct))
    if problem_type == MULTI:
        predicted = torch.tensor(np.array(outputs)).sigmoid().numpy() >= THRESHOLDS
        return label_f1([[name in label for name in names] for label in labels], predicted, average="micro")
    if problem_type == REGRESSION:
        ranks = [np.argsort(np.argsort(values)) for values in (np.array(outputs)[:, 0], labels)]
        return float(np.corrcoef(*ranks)[0, 1])
    tokenizer, tags = AutoTokenizer.from_pretrained(folder), []
    for text, logits in zip(texts, outputs, strict=True):
        words = text.split(" ")
        word_ids = tokenizer(words, is_split_into_words=True, truncation=True, max_length=MAX_LENGTH).word_ids()
        first_tokens = [word_ids.index(word) if word in word_ids else None for word in range(len(words))]
        tags.append(["O" if token is None else names[logits[token].argmax()] for token in first_tokens])
    return f1_score(labels, tags, mode="strict", scheme=IOB2, zero_division=0)


def exported(run_folder: Path, problem_type: str) -> Path:
    """Export a run once, with int8 for single-label classification, and return the folder of its graphs."""
    path = inner_folder(run_folder, problem_type) / "onnx"
    if not path.is_dir():
        quantize = ["--quantize=int8"] if problem_type == SINGLE else []
        export.main([str(run_folder), "--to", "onnx", "rounds=1", *quantize])
    return path


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_graph_matches_torch(problem_type, finished_run, texts, workspace, capsys):
    folder = finished_run(problem_type)
    inside = inner_folder(folder, problem_type)
    report = json.loads((exported(folder, problem_type) / "export.json").read_text())
    summary = export.summary(report, inside / "onnx")
    outputs = reference_outputs(inside, texts, problem_type)
    session, tokenizer = InferenceSession(inside / "onnx" / "model.onnx"), AutoTokenizer.from_pretrained(inside)
    assert all(node.shape == ["texts", "tokens"] for node in session.get_inputs())
    onnx_files = {path.name: path for path in (inside / "onnx").iterdir()}
    assert not list(check_secrets(onnx_files, set())), "the graph holds no path of this machine"
    for count in (1, 7):  # not the batch size that was traced
        inputs = dict(
            tokenizer(texts[:count], truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="np")
        )
        results = session.run(None, {node.name: inputs[node.name] for node in session.get_inputs()})[0]
        for expected, result in zip(outputs, results, strict=False):
            result = result[: len(expected)] if problem_type == TOKENS else result
            assert np.abs(expected - result).max() < 1e-5
    torch_report, graph_report = report["backends"]["torch"], report["backends"]["float32"]
    assert report["problem_type"] == problem_type
    assert report["num_inputs"] == len(texts)
    assert graph_report["max_abs_diff"] < 1e-5
    assert graph_report["megabytes"] > 3
    assert all(milliseconds > 0 for milliseconds in graph_report["milliseconds_per_input"].values())
    if problem_type == EMBEDDING:
        assert graph_report["agreement"] == pytest.approx(1, abs=1e-6)
        assert "mean cosine" in summary
        return
    labels = json.loads((folder / "test.json").read_text())["labels"]
    score = reference_score(problem_type, outputs, labels, texts, inside)
    assert torch_report["score"] == pytest.approx(score)
    assert graph_report["score"] == pytest.approx(score)
    assert f"{score:.4f}" in summary
    assert report["metric"] in summary
    if problem_type != REGRESSION:
        assert graph_report["agreement"] == 1
        assert len({str(output.argmax(-1)) for output in outputs}) > 1


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_example_script_needs_no_torch(problem_type, finished_run, texts, workspace):
    script = exported(finished_run(problem_type), problem_type) / "example.py"
    inside, code = script.parent.parent, script.read_text()
    assert len([line for line in code.splitlines() if line.strip()]) <= (21 if problem_type == TOKENS else 20)
    if problem_type == SINGLE:  # it is written for int8
        script.write_text(code.replace("model_int8.onnx", "model.onnx"))
    args = ("-c", WITHOUT_TORCH, str(script), *texts[:3])
    done = run_module(*args, prefix=(sys.executable, "-P"), cwd=workspace, PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    lines, outputs = done.stdout.splitlines(), reference_outputs(inside, texts[:3], problem_type)
    if problem_type == TOKENS:
        tags = [NAMES[TOKENS][tag] for output in outputs for tag in output.argmax(-1)[1:-1]]
        assert [line.split()[0] for line in lines] == tags
        return
    for line, text, output in zip(lines, texts[:3], outputs, strict=True):
        if problem_type == SINGLE:
            probabilities = torch.tensor(output).softmax(-1)
            assert line == f"{NAMES[SINGLE][int(probabilities.argmax())]}  {probabilities.max():.3f}  {text}"
        elif problem_type == MULTI:
            probabilities = torch.tensor(output).sigmoid()
            names = [name for name, p, t in zip(NAMES[MULTI], probabilities, THRESHOLDS, strict=True) if p >= t]
            assert line == f"{names} {text}"
        elif problem_type == REGRESSION:
            assert float(line.split()[0]) == pytest.approx(float(output[0]), abs=1e-4)
        elif problem_type == EMBEDDING:
            assert json.loads(line) == pytest.approx(output.tolist(), abs=1e-4)


def test_int8_is_smaller_and_close_to_float32(finished_run, texts, workspace):
    path = exported(finished_run(SINGLE), SINGLE)
    backends = json.loads((path / "export.json").read_text())["backends"]
    assert list(backends) == ["torch", "float32", "int8"]
    assert backends["int8"]["megabytes"] < 0.4 * backends["float32"]["megabytes"]
    assert 1e-5 < backends["int8"]["max_abs_diff"] < 0.5
    assert backends["int8"]["agreement"] > 0.8
    session, tokenizer = InferenceSession(path / "model_int8.onnx"), AutoTokenizer.from_pretrained(path.parent)

    def logits(batch: list[str]) -> np.ndarray:
        inputs = dict(tokenizer(batch, truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="np"))
        return session.run(["logits"], inputs)[0]

    alone = np.concatenate([logits([text]) for text in texts[:8]])
    assert np.abs(logits(texts[:8]) - alone).max() < 1e-4, "the output for a text depends on the rest of its batch"


def test_int8_warnings():
    backends = {
        "torch": {"score": 0.8, "milliseconds_per_input": {"1": 10.0}},
        "int8": {"score": 0.785, "milliseconds_per_input": {"1": 6.0}},
    }
    assert export.int8_warnings(backends) == [
        "note: int8 loses 1.5 points here; use float32",
        "note: int8 is only 1.7 times as fast as torch here, one text at a time",
    ]
    backends["int8"] = {"score": 0.791, "milliseconds_per_input": {"1": 4.0}}
    assert export.int8_warnings(backends) == []


def test_graph_that_differs_from_torch_is_refused(finished_run, workspace, capsys, monkeypatch):
    folder = finished_run(SINGLE)
    graph = onnx_ir.load(exported(folder, SINGLE) / "model.onnx")
    shape = [len(NAMES[SINGLE]), 32]
    weight = next(value for value in graph.graph.initializers.values() if sorted(value.shape) == shape)
    weight.const_value = onnx_ir.tensor(weight.const_value.numpy() * np.float32(1.1))
    monkeypatch.setattr(onnx, "export_onnx", lambda model: graph)
    before = {path: path.stat().st_mtime_ns for path in (folder / "model").rglob("*")}
    (line,) = error_lines(export.main, [str(folder), "rounds=1"], capsys, monkeypatch)
    assert line.startswith("the graph does not match torch: outputs differ by up to ")
    assert {path: path.stat().st_mtime_ns for path in (folder / "model").rglob("*")} == before


@pytest.mark.parametrize("problem_type", [MULTI, REGRESSION])
def test_predictions_from_outputs(problem_type):
    rng, names = np.random.default_rng(0), NAMES[problem_type]
    config = {
        "id2label": {str(index): name for index, name in enumerate(names)},
        "thresholds": dict(zip(names, THRESHOLDS, strict=False)),
    }
    outputs = list(rng.normal(size=(50, len(names))))
    labels = [random_label(problem_type, random.Random(seed), "") for seed in range(50)]
    file = load_problem_type(problem_type)
    predicted = file.decode_outputs(outputs, config)
    expected = reference_score(problem_type, outputs, labels, [], Path())
    assert file.score_predictions(predicted, labels) == pytest.approx(expected)
    assert file.agreement(predicted, predicted) == (1 if problem_type == MULTI else None)


def test_constant_numbers_have_the_score_of_fine_tuning():
    regression, numbers = load_problem_type(REGRESSION), [1.0, 2.0, 4.0]
    assert regression.score_predictions([3.0] * 3, numbers) == regression.score_predictions(numbers, [3.0] * 3) == 0
    assert regression.quick_metrics([3.0] * 3, np.array(numbers))["spearman"] == 0


def test_errors(finished_run, workspace, tmp_path, capsys, monkeypatch):
    def errors(*args: str) -> list[str]:
        return error_lines(export.main, list(args), capsys, monkeypatch)

    assert errors("nowhere") == ["run: no 'nowhere'"]
    (tmp_path / "out/runs/half").mkdir(parents=True)
    assert errors("halt") == ["run: no 'halt' (nearest: half)"]
    assert errors("half") == ["out/runs/half: not finished, it has neither encoder/ nor model/"]
    assert errors("half", "--to", "tflite") == ["to: 'tflite' is none of onnx (there are: onnx)"]
    assert errors("half", "--quantise", "int8") == ["quantise: no such key (nearest: quantize)"]
    assert errors("half", "other") == ["other: neither a .yaml file nor key=value"]
    inside = finished_run(SINGLE) / "model"
    (tmp_path / "bare").symlink_to(inside)
    capsys.readouterr()  # what creating the model printed
    assert errors("bare") == ["bare: no test.json or sample.json to measure on; set texts=FILE, one text per line"]
    assert errors("bare", "texts=gone.txt") == ["texts: no file 'gone.txt'"]
    (tmp_path / "latin.txt").write_bytes("caf\u00e9 au lait".encode("latin-1"))
    (line,) = errors("bare", "texts=latin.txt")
    assert line.startswith("texts: 'latin.txt' is not UTF-8 (")
    (tmp_path / "blank.txt").write_text("\n  \n")
    assert errors("bare", "texts=blank.txt") == ["texts: no text in 'blank.txt'"]
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxruntime" else find_spec(name))
    assert errors("bare") == ["to: onnxruntime not installed; pip install onnx onnxscript onnxruntime"]
    monkeypatch.setattr(export, "find_spec", find_spec)
    # As with transformers before 5.20, which lacks the exporters.
    monkeypatch.setitem(sys.modules, "publish.export.onnx", None)
    monkeypatch.delattr("publish.export.onnx")
    (line,) = errors("bare")
    assert line.startswith("to: ") and line.endswith("; pip install -U transformers onnx onnxscript onnxruntime")
