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

from data import labelled
from data.config import TaskFile
from data.derived import OUT
from data.encoders import SAFELY, locate, pooling_of, positions_of
from data.sources import name_of, rows, text_of
from engine import attention, machine
from engine.config import load
from engine.errors import ConfigError, DataError
from engine.files import write_json
from engine.record import Progress
from pretrain.origin import quiet
from pretrain.evaluate import Evaluate, Likeness

STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # inverse regularisation of the linear probe, chosen on the validation rows
AT_ONCE = 64
Vectors = Callable[[list[str]], np.ndarray]
"""Texts to vectors, (texts, width)."""


def evaluate(config: Evaluate) -> None:
    """Print the table and write it as JSON. Raises ConfigError and DataError for the user's mistakes."""
    quiet()
    folder = locate(config.encoder)
    splits = probed(config) if config.task else None
    pairs = scored(config.likeness) if config.likeness else None
    if not splits and not pairs:
        raise ConfigError("task, likeness: give one of them, or there is nothing to measure")
    seen = [text for examples in (splits or {}).values() for text in texts_of(examples)]
    seen += [text for pair in pairs or [] for text in pair[:2]]
    trained, width = encoder_vectors(folder, config.length)
    torch.manual_seed(0)
    floor, _ = encoder_vectors(folder, config.length, untrained=True)
    ways = {config.encoder: trained, "the same network, untrained": floor, "TF-IDF + truncated SVD": tfidf(seen, width)}
    found = {name: measured(vectors, config, splits, pairs) for name, vectors in ways.items()}
    columns = list(found[config.encoder])
    print("\n" + f"  {'':<44}" + "".join(f"{column:>16}" for column in columns))
    for name, figures in found.items():
        print(f"  {name:<44}" + "".join(f"{figures[column]:>16.3f}" for column in columns))
    path = OUT / "evaluations" / (config.encoder.strip("/.").replace("/", "-") + ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"config": config.model_dump(mode="json"), "figures": found})
    print(f"\n  written to {path}")


def probed(config: Evaluate) -> dict[str, list[labelled.Example]]:
    """The rows of the task that is probed, by split."""
    file = load(TaskFile, [config.task])
    task = file.task
    if file.kind != "class":
        raise ConfigError(f"task: {config.task} is not about classes; a probe tells classes apart")
    if not isinstance(task.text, str):
        raise ConfigError(f"task: {config.task} is about pairs of texts; a probe takes one text")
    splits = labelled.read(task)
    for count in config.labels:
        try:
            labelled.few(splits["train"], count, 0)
        except ConfigError as error:
            raise ConfigError(str(error).replace("task.labels", "labels", 1)) from None
    return splits


def scored(likeness: Likeness) -> list[tuple[str, str, float]]:
    """(one sentence, the other, score) of each pair. Raises DataError for a score that is no number."""
    where, found = name_of(likeness), []
    for number, row in enumerate(rows(likeness), 1):
        first, second, score = (text_of(row, column, where) for column in (likeness.first, likeness.second, likeness.score))
        try:
            found.append((first, second, float(score)))
        except ValueError:
            raise DataError(f"{where} row {number}: {score!r} in column {likeness.score!r} is not a number") from None
    if len({score for *_, score in found}) < 2:
        raise DataError(f"{where}: {len(found)} pairs of sentences with one score or none; there is nothing to compare")
    return found


def encoder_vectors(folder: Path, length: int, untrained: bool = False) -> tuple[Vectors, int]:
    """(texts to pooled last hidden states as sentence-transformers pools them, their width)."""
    try:
        tokenizer, model = AutoTokenizer.from_pretrained(folder, **SAFELY), AutoModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, **SAFELY)
    except Exception as error:
        raise DataError(f"{folder}: transformers cannot load it ({str(error).strip().splitlines()[0]})") from None
    if untrained:
        model = AutoModel.from_config(model.config)
    mean = pooling_of(folder) != "cls"
    length = min(length, tokenizer.model_max_length, positions_of(model.config))
    attention.use(model)
    title = "vectors, untrained" if untrained else "vectors"
    return lambda texts: pooled(model.eval(), tokenizer, texts, length, mean, title), model.config.hidden_size


@torch.no_grad()
def pooled(model: PreTrainedModel, tokenizer, texts: list[str], length: int, mean: bool, title: str) -> np.ndarray:
    """float32 (texts, width): the mean of each text's last hidden states, or the first."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    order = np.argsort([len(text) for text in texts], kind="stable")
    found = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    with Progress(title, len(texts), 0, True, "text") as progress:
        for start in range(0, len(texts), AT_ONCE):
            places = order[start:start + AT_ONCE]
            inputs = tokenizer([texts[place] for place in places], padding=True, truncation=True, max_length=length,
                               return_tensors="pt").to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=machine.has_native_bf16()):
                states = model(**inputs).last_hidden_state.float()
            mask = inputs["attention_mask"][:, :, None]
            found[places] = ((states * mask).sum(1) / mask.sum(1) if mean else states[:, 0]).cpu().numpy()
            progress.update(start + len(places), "")
    return found


def tfidf(texts: list[str], width: int) -> Vectors:
    """The floor without a network, made from the texts that are measured, their labels aside."""
    vectorizer = TfidfVectorizer(sublinear_tf=True)
    matrix = vectorizer.fit_transform(texts)
    decomposition = TruncatedSVD(min(width, matrix.shape[1] - 1), random_state=0).fit(matrix)
    return lambda some: decomposition.transform(vectorizer.transform(some)).astype(np.float32)


def measured(vectors: Vectors, config: Evaluate, splits: dict | None, pairs: list | None) -> dict[str, float]:
    """The figures of one way of making vectors, by column."""
    figures = {}
    if pairs:
        first, second, scores = zip(*pairs)
        figures["likeness"] = likeness(vectors(list(first)), vectors(list(second)), np.array(scores))
    if splits:
        made = {split: vectors(texts_of(examples)) for split, examples in splits.items()}
        labels = {split: np.array([example.label for example in examples]) for split, examples in splits.items()}
        place = {id(example): number for number, example in enumerate(splits["train"])}
        for count in config.labels:
            draws = [[place[id(example)] for example in labelled.few(splits["train"], count, seed)]
                     for seed in range(config.seeds)]
            figures[f"linear, {count}"] = float(np.mean([linear_probe(made, labels, chosen) for chosen in draws]))
        figures["neighbours, all"] = nearest_neighbours(made, labels, config.neighbours)
    return figures


def texts_of(examples: list[labelled.Example]) -> list[str]:
    """Their texts."""
    return [example.texts[0] for example in examples]


def likeness(first: np.ndarray, second: np.ndarray, scores: np.ndarray) -> float:
    """Spearman's correlation of the vectors' cosines with the scores."""
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines = (first * second).sum(1) / np.maximum(norms, 1e-12)
    # Of an encoder that gives every text the same vector: no correlation, not none.
    return float(spearmanr(cosines, scores).statistic) if np.ptp(cosines) > 0 else 0.0


def linear_probe(vectors: dict[str, np.ndarray], labels: dict[str, np.ndarray], chosen: list[int]) -> float:
    """Test accuracy of a logistic regression on standardised vectors of the training rows `chosen`."""
    scaler = StandardScaler().fit(vectors["train"])
    scaled = {split: scaler.transform(array) for split, array in vectors.items()}
    fitted = [LogisticRegression(C=strength, max_iter=2_000).fit(scaled["train"][chosen], labels["train"][chosen])
              for strength in STRENGTHS]
    best = max(fitted, key=lambda model: model.score(scaled["validation"], labels["validation"]))
    return float(best.score(scaled["test"], labels["test"]))


def nearest_neighbours(vectors: dict[str, np.ndarray], labels: dict[str, np.ndarray], count: int) -> float:
    """Test accuracy of the vote of the `count` training rows of highest cosine."""
    model = KNeighborsClassifier(min(count, len(labels["train"])), metric="cosine").fit(vectors["train"], labels["train"])
    return float(model.score(vectors["test"], labels["test"]))
