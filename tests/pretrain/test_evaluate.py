"""`python -m pretrain.evaluate`: embeddings compared with sentence-transformers, metrics with slow ones; the output."""

from __future__ import annotations

import json

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from helpers import error_lines, run_module

from data.encoders import resolve_encoder
from engine.errors import UserError
from engine.training import distributed
from pretrain.evaluate import embeddings
from pretrain.evaluate.__main__ import main


@pytest.fixture(autouse=True)
def new_accelerator_state():
    """Allow another precision than that of other tests, which a process otherwise keeps."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


@pytest.mark.parametrize("precision, tolerance", [("float32", 1e-5), ("bf16", 0.02)])
def test_embeddings_are_those_of_sentence_transformers(workspace, monkeypatch, precision, tolerance):
    from sentence_transformers import SentenceTransformer

    texts = ["a film to remember", "No.", "it drags on and on, and then it ends, and we all went home early " * 3, ""]
    monkeypatch.setattr(distributed.hardware, "has_native_bf16", lambda: precision == "bf16")
    embedder, dim = embeddings.build_encoder_embedder(resolve_encoder("minilm"), 64)
    reference = SentenceTransformer(str(resolve_encoder("minilm")))
    reference.max_seq_length = 64
    expected = reference.encode(texts, normalize_embeddings=True)
    vectors = embedder(texts)
    assert vectors.shape == (4, dim) == (4, 384)
    assert np.allclose(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), expected, atol=tolerance)


def test_sts_spearman_is_the_correlation_of_ranks():
    random = np.random.default_rng(0)
    first, second, scores = random.normal(size=(40, 8)), random.normal(size=(40, 8)), random.normal(size=40)
    cosine = np.array([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(first, second, strict=True)])
    ranks = [np.argsort(np.argsort(values)) for values in (cosine, scores)]
    assert embeddings.sts_spearman(first, second, scores) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert embeddings.sts_spearman(first, second, cosine) == pytest.approx(1)
    assert embeddings.sts_spearman(first, second, -cosine) == pytest.approx(-1)
    assert embeddings.sts_spearman(first * 0, second, scores) == 0, "a collapsed encoder"


def test_probes_are_accurate_on_a_signal_and_at_chance_on_noise():
    random = np.random.default_rng(0)
    sizes = {"train": 300, "validation": 80, "test": 400}
    labels = {split: np.array(["no", "yes"])[random.integers(2, size=size)] for split, size in sizes.items()}
    noise = {split: random.normal(size=(len(values), 12)).astype(np.float32) for split, values in labels.items()}
    signal = {split: array + 3 * (labels[split] == "yes")[:, None] for split, array in noise.items()}
    indices = list(range(50))
    assert embeddings.linear_probe_accuracy(signal, labels, indices) > 0.97
    assert embeddings.knn_accuracy(signal, labels, 10) > 0.9
    assert abs(embeddings.linear_probe_accuracy(noise, labels, indices) - 0.5) < 0.1
    assert abs(embeddings.knn_accuracy(noise, labels, 10) - 0.5) < 0.1
    votes = []
    for vector in signal["test"]:
        cosine = signal["train"] @ vector / np.linalg.norm(signal["train"], axis=1)
        nearest = labels["train"][np.argsort(-cosine)[:5]]
        votes.append("yes" if (nearest == "yes").sum() > 2 else "no")
    assert embeddings.knn_accuracy(signal, labels, 5) == pytest.approx((np.array(votes) == labels["test"]).mean())


@pytest.fixture
def files(workspace, sentiment_files):
    (workspace / "task.yaml").write_text(f"task: {{name: t, train: {{files: {sentiment_files / 'labels.csv'}}}}}\n")
    random = np.random.default_rng(0)
    pairs = ["sentence1,sentence2,score"]
    for number in range(40):
        words = [f"word{word}" for word in random.integers(9, size=6)]
        pairs.append(f"{' '.join(words)},{' '.join(words[: number % 6 + 1])},{number % 6}")
    (workspace / "pairs.csv").write_text("\n".join(pairs) + "\n")
    return workspace


def test_the_table_and_the_json_file(files):
    words = ["encoder=minilm", "sts.files=pairs.csv"]
    options = ["task=task.yaml", "num_examples=[20, 60]", "seeds=2"]
    done = run_module("pretrain.evaluate", *words, *options, cwd=files)
    assert done.returncode == 0, done.stderr
    content = json.loads((files / "out" / "evaluations" / "minilm.json").read_text())
    metrics = content["metrics"]
    assert list(metrics) == ["minilm", "same network, random weights", "TF-IDF + truncated SVD"]
    lines = done.stdout.splitlines()
    for name, values in metrics.items():
        assert list(values) == ["sts_spearman", "linear probe, 20", "linear probe, 60", "k-NN, all"]
        line = next(line for line in lines if line.startswith(f"  {name}"))
        cells = [float(part) for part in line.removeprefix(f"  {name}").split()]
        assert cells == [round(value, 3) for value in values.values()]
    assert metrics["minilm"]["sts_spearman"] > 0.5 and metrics["minilm"]["linear probe, 60"] > 0.55
    assert content["config"]["seeds"] == 2 and "out/evaluations/minilm.json" in done.stdout
    again = run_module("pretrain.evaluate", *words, "task=none", cwd=files)
    assert again.returncode == 0, again.stderr
    again = json.loads((files / "out" / "evaluations" / "minilm.json").read_text())["metrics"]
    for name in ("minilm", "same network, random weights"):
        assert again[name]["sts_spearman"] == metrics[name]["sts_spearman"], "deterministic"


@pytest.mark.parametrize(
    "words, expected",
    [
        (["task=none"], "task, sts: give at least one of them"),
        (["num_examples=[100000]", "task=task.yaml"], "num_examples=100000: only 300 training rows"),
        (["task=none", "sts.files=pairs.csv", "sts.score=sentence1"], "is not a number"),
        (["task=none", "sts.files=pairs.csv", "sts.score=scores"], "scores"),
        (["task=nowhere.yaml"], "nowhere.yaml: no such file"),
        (["encoder=out/runs/none/encoder", "task=task.yaml"], "no such folder"),
        (["tusk=task.yaml"], "tusk: no such key (nearest: task)"),
    ],
)
def test_a_mistake_is_reported_in_one_line(files, words, expected):
    with pytest.raises(UserError) as error:
        main([*([] if any("encoder=" in word for word in words) else ["encoder=minilm"]), *words])
    assert expected in str(error.value) and len(str(error.value).splitlines()) <= 2


def test_a_task_of_text_pairs_cannot_be_probed(files, capsys, monkeypatch):
    (files / "pair.yaml").write_text(
        "task: {name: t, train: {files: pairs.csv}, text: [sentence1, sentence2], label: score}\n"
    )
    lines = error_lines(main, ["encoder=minilm", "task=pair.yaml"], capsys, monkeypatch)
    assert len(lines) <= 2 and "the probes need single texts" in lines[0], lines


def test_encoder_of_images_is_compared_with_random_weights_and_pixels(workspace, capsys, monkeypatch):
    from PIL import Image
    from tiny_images import draw_images, tiny_image_encoder

    from pretrain.model.image_encoder import save_image_encoder

    encoder = tiny_image_encoder("convnextv2")
    save_image_encoder(encoder, workspace / "encoder", {}, "")
    (workspace / "encoder/record.json").unlink()
    for number, pixels in enumerate(draw_images(80)):
        label = ("bright", "dark")[number % 2]
        path = workspace / "photos" / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels // (1 + 2 * (number % 2))).save(path)
    task = "task: {name: shades, modality: images, train: {folder: photos}, label: label}"
    (workspace / "task.yaml").write_text(task)
    main(["encoder=encoder", "task=task.yaml", "num_examples=[20]", "seeds=2"])
    metrics = json.loads((workspace / "out/evaluations/encoder.json").read_text())["metrics"]
    assert list(metrics) == ["encoder", "same network, random weights", "16 x 16 pixels"]
    for values in metrics.values():
        assert list(values) == ["linear probe, 20", "k-NN, all", "effective rank"]
        assert 0.5 <= values["linear probe, 20"] <= 1 < values["effective rank"] < 80
    assert metrics["16 x 16 pixels"]["linear probe, 20"] > 0.9
    capsys.readouterr()
    assert error_lines(main, ["encoder=encoder", "task=configs/finetune/sentiment.yaml"], capsys, monkeypatch) == [
        "task: encoder reads images; name the file of a task of images, as configs/finetune/solar.yaml"
    ]
