"""Text vectors and what can be read off them: likeness, a linear probe, nearest neighbours; and the floors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from data.cache import OUTPUT_DIR
from data.encoders import LOAD_KWARGS, max_positions, read_pooling, resolve_encoder
from data.sources.source import display_name, get_text, iter_rows
from data.tasks.task import Example, TaskFile, read_task, sample_examples
from engine.config.loader import load_config
from engine.errors import ConfigError, DataError
from engine.files import write_json
from engine.kernels import attention
from engine.runs.progress import Progress
from engine.system import hardware
from pretrain.evaluate.config import Evaluate, STSSource
from pretrain.model.build import silence_transformers

INVERSE_REGULARIZATION = (
    0.001,
    0.01,
    0.1,
    1.0,
)  # inverse regularisation of the linear probe, chosen on the validation rows
BATCH_SIZE = 64
Embedder = Callable[[list[str]], np.ndarray]
"""Texts to vectors, (texts, width)."""


def evaluate(config: Evaluate) -> None:
    """Print the table and write it as JSON. Raises ConfigError and DataError for the user's mistakes."""
    silence_transformers()
    folder = resolve_encoder(config.encoder)
    splits = load_probe_splits(config) if config.task else None
    pairs = load_sts_pairs(config.sts) if config.sts else None
    if not splits and not pairs:
        raise ConfigError("task, likeness: give one of them, or there is nothing to measure")
    seen = [text for examples in (splits or {}).values() for text in get_texts(examples)]
    seen += [text for pair in pairs or [] for text in pair[:2]]
    trained, width = build_encoder_embedder(folder, config.max_length)
    torch.manual_seed(0)
    floor, _ = build_encoder_embedder(folder, config.max_length, random_init=True)
    ways = {
        config.encoder: trained,
        "the same network, untrained": floor,
        "TF-IDF + truncated SVD": build_tfidf_embedder(seen, width),
    }
    found = {name: compute_metrics(vectors, config, splits, pairs) for name, vectors in ways.items()}
    columns = list(found[config.encoder])
    print("\n" + f"  {'':<44}" + "".join(f"{column:>16}" for column in columns))
    for name, figures in found.items():
        print(f"  {name:<44}" + "".join(f"{figures[column]:>16.3f}" for column in columns))
    path = OUTPUT_DIR / "evaluations" / (config.encoder.strip("/.").replace("/", "-") + ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"config": config.model_dump(mode="json"), "metrics": found})
    print(f"\n  written to {path}")


def load_probe_splits(config: Evaluate) -> dict[str, list[Example]]:
    """The rows of the task that is probed, by split."""
    file = load_config(TaskFile, [config.task])
    task = file.task
    if file.task.problem_type != "single_label_classification":
        raise ConfigError(f"task: {config.task} is not about classes; a probe tells classes apart")
    if not isinstance(task.text, str):
        raise ConfigError(f"task: {config.task} is about pairs of texts; a probe takes one text")
    splits = read_task(task)
    for count in config.num_examples:
        try:
            sample_examples(splits["train"], count, 0)
        except ConfigError as error:
            raise ConfigError(str(error).replace("task.num_examples", "num_examples", 1)) from None
    return splits


def load_sts_pairs(source: STSSource) -> list[tuple[str, str, float]]:
    """(one sentence, the other, score) of each pair. Raises DataError for a score that is no number."""
    where, found = display_name(source), []
    for number, row in enumerate(iter_rows(source), 1):
        first, second, score = (get_text(row, column, where) for column in (source.first, source.second, source.score))
        try:
            found.append((first, second, float(score)))
        except ValueError:
            raise DataError(f"{where} row {number}: {score!r} in column {source.score!r} is not a number") from None
    if len({score for *_, score in found}) < 2:
        raise DataError(f"{where}: {len(found)} pairs of sentences with one score or none; there is nothing to compare")
    return found


def build_encoder_embedder(folder: Path, max_length: int, random_init: bool = False) -> tuple[Embedder, int]:
    """(texts to pooled last hidden states as sentence-transformers pools them, their width)."""
    try:
        tokenizer, model = (
            AutoTokenizer.from_pretrained(folder, **LOAD_KWARGS),
            AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, **LOAD_KWARGS),
        )
    except Exception as error:
        raise DataError(f"{folder}: transformers cannot load it ({str(error).strip().splitlines()[0]})") from None
    if random_init:
        model = AutoModel.from_config(model.config)
    mean = read_pooling(folder) != "cls"
    max_length = min(max_length, tokenizer.model_max_length, max_positions(model.config))
    attention.use_fast_attention(model)
    title = "vectors, untrained" if random_init else "vectors"
    return lambda texts: embed_texts(model.eval(), tokenizer, texts, max_length, mean, title), model.config.hidden_size


@torch.no_grad()
def embed_texts(
    model: PreTrainedModel, tokenizer, texts: list[str], max_length: int, mean_pooling: bool, title: str
) -> np.ndarray:
    """float32 (texts, width): the mean of each text's last hidden states, or the first."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    order = np.argsort([len(text) for text in texts], kind="stable")
    found = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    with Progress(title, len(texts), 0, True, "text") as progress:
        for start in range(0, len(texts), BATCH_SIZE):
            places = order[start : start + BATCH_SIZE]
            inputs = tokenizer(
                [texts[place] for place in places],
                padding=True,
                truncation=True,
                max_length=max_length,
                return_tensors="pt",
            ).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=hardware.has_native_bf16()):
                states = model(**inputs).last_hidden_state.float()
            mask = inputs["attention_mask"][:, :, None]
            found[places] = ((states * mask).sum(1) / mask.sum(1) if mean_pooling else states[:, 0]).cpu().numpy()
            progress.update(start + len(places), "")
    return found


def build_tfidf_embedder(texts: list[str], dim: int) -> Embedder:
    """The floor without a network, made from the texts that are measured, their labels aside."""
    vectorizer = TfidfVectorizer(sublinear_tf=True)
    matrix = vectorizer.fit_transform(texts)
    decomposition = TruncatedSVD(min(dim, matrix.shape[1] - 1), random_state=0).fit(matrix)
    return lambda some: decomposition.transform(vectorizer.transform(some)).astype(np.float32)


def compute_metrics(embedder: Embedder, config: Evaluate, splits: dict | None, pairs: list | None) -> dict[str, float]:
    """The figures of one way of making vectors, by column."""
    figures = {}
    if pairs:
        first, second, scores = zip(*pairs)
        figures["likeness"] = sts_spearman(embedder(list(first)), embedder(list(second)), np.array(scores))
    if splits:
        made = {split: embedder(get_texts(examples)) for split, examples in splits.items()}
        labels = {split: np.array([example.label for example in examples]) for split, examples in splits.items()}
        place = {id(example): number for number, example in enumerate(splits["train"])}
        for count in config.num_examples:
            draws = [
                [place[id(example)] for example in sample_examples(splits["train"], count, seed)]
                for seed in range(config.seeds)
            ]
            figures[f"linear, {count}"] = float(
                np.mean([linear_probe_accuracy(made, labels, chosen) for chosen in draws])
            )
        figures["neighbours, all"] = knn_accuracy(made, labels, config.num_neighbors)
    return figures


def get_texts(examples: list[Example]) -> list[str]:
    """Their texts."""
    return [example.texts[0] for example in examples]


def sts_spearman(first: np.ndarray, second: np.ndarray, scores: np.ndarray) -> float:
    """Spearman's correlation of the vectors' cosines with the scores."""
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines = (first * second).sum(1) / np.maximum(norms, 1e-12)
    # Of an encoder that gives every text the same vector: no correlation, not none.
    return float(spearmanr(cosines, scores).statistic) if np.ptp(cosines) > 0 else 0.0


def linear_probe_accuracy(
    embeddings: dict[str, np.ndarray], labels: dict[str, np.ndarray], train_indices: list[int]
) -> float:
    """Test accuracy of a logistic regression on standardised vectors of the training rows `train_indices`."""
    scaler = StandardScaler().fit(embeddings["train"])
    scaled = {split: scaler.transform(array) for split, array in embeddings.items()}
    fitted = [
        LogisticRegression(C=strength, max_iter=2_000).fit(
            scaled["train"][train_indices], labels["train"][train_indices]
        )
        for strength in INVERSE_REGULARIZATION
    ]
    best = max(fitted, key=lambda model: model.score(scaled["validation"], labels["validation"]))
    return float(best.score(scaled["test"], labels["test"]))


def knn_accuracy(embeddings: dict[str, np.ndarray], labels: dict[str, np.ndarray], num_neighbors: int) -> float:
    """Test accuracy of the vote of the `num_neighbors` training rows of highest cosine."""
    model = KNeighborsClassifier(min(num_neighbors, len(labels["train"])), metric="cosine").fit(
        embeddings["train"], labels["train"]
    )
    return float(model.score(embeddings["test"], labels["test"]))
