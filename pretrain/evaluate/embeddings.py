"""Embeddings and their evaluation: STS, linear probe, k-NN probe, effective rank of images, and baselines."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from data.cache import OUTPUT_DIR
from data.encoders import read_pooling, read_record, resolve_encoder
from data.modalities import find_modality
from data.sources.source import display_name, iter_located_rows
from data.sources.values import get_scalar, get_text
from data.tasks.task import Example, Task, TaskFile, read_task
from data.tasks.tfidf import describe_tfidf, tfidf_vectorizer
from data.tokens.dataset import tokenize_examples
from engine.config.loader import load_config
from engine.config.schema import Section
from engine.errors import ConfigError, DataError
from engine.files import read_json, write_json
from engine.log import get_logger
from engine.models import embed
from engine.training.distributed import make_accelerator
from pretrain.evaluate.config import Evaluate, STSSource
from pretrain.model.build import silence_transformers
from pretrain.probe_samples import draw_samples

logger = get_logger(__name__)

INVERSE_REGULARIZATION = (0.001, 0.01, 0.1, 1.0)  # of the linear probe, selected on the validation set
Embedder = Callable[[list[str]], np.ndarray]
"""Texts to embeddings, (texts, width)."""
IMAGE_TASK = "configs/finetune/solar.yaml"
Splits = dict[str, np.ndarray]


def evaluate(config: Evaluate) -> None:
    """Print a table of metrics and write it as JSON. Raises ConfigError and DataError for the user's mistakes."""
    silence_transformers()
    folder = resolve_encoder(config.encoder)
    modality = find_modality(folder, read_record(folder), read_json(folder / "config.json"))
    metrics = evaluate_images(config, folder) if modality.name == "images" else evaluate_texts(config, folder)
    columns = list(metrics[config.encoder])
    logger.info("\n" + f"  {'':<44}" + "".join(f"{column:>19}" for column in columns))
    for name, values in metrics.items():
        logger.info(f"  {name:<44}" + "".join(f"{values[column]:>19.3f}" for column in columns))
    path = OUTPUT_DIR / "evaluations" / (config.encoder.strip("/.").replace("/", "-") + ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"config": config.model_dump(mode="json"), "metrics": metrics})
    logger.info(f"\n  written to {path}")


def evaluate_texts(config: Evaluate, folder: Path) -> dict[str, dict[str, float]]:
    """Return the metrics of an encoder of texts and of its baselines, by name."""
    splits = load_probe_splits(config, load_config(TaskFile, [config.task]).task) if config.task else None
    pairs = load_sts_pairs(config.sts) if config.sts else None
    if not splits and not pairs:
        raise ConfigError("task, sts: give at least one of them")
    texts = [example.texts[0] for examples in (splits or {}).values() for example in examples]
    texts += [text for pair in pairs or [] for text in pair[:2]]
    trained, dim = build_encoder_embedder(folder, config.max_length)
    torch.manual_seed(0)
    untrained, _ = build_encoder_embedder(folder, config.max_length, random_init=True)
    embedders = {
        config.encoder: trained,
        "same network, random weights": untrained,
        f"{describe_tfidf(texts)} + truncated SVD": build_tfidf_embedder(texts, dim),
    }
    return {name: compute_metrics(embedder, config, splits, pairs) for name, embedder in embedders.items()}


def evaluate_images(config: Evaluate, folder: Path) -> dict[str, dict[str, float]]:
    """Return the metrics of an encoder of images and of its baselines, by name. Raises ConfigError for a text task."""
    from data.images.task import ImageTask, ImageTaskFile
    from pretrain.evaluate.images import build_embedders, measure_rank, size_task

    if config.sts:
        raise ConfigError(f"sts: {config.encoder} reads images, and sentence pairs are texts")
    path = config.task if "task" in config.model_fields_set else IMAGE_TASK
    if not path or load_config(TaskModality, [path]).task.get("modality") != "images":
        raise ConfigError(f"task: {config.encoder} reads images; name the file of a task of images, as {IMAGE_TASK}")
    task: ImageTask = size_task(load_config(ImageTaskFile, [path]).task, folder)
    splits = load_probe_splits(config.model_copy(update={"task": path}), task)
    metrics = {}
    for name, embedder in build_embedders(config.encoder, folder, task, splits).items():
        rank = measure_rank(embedder([example.texts[0] for example in splits["test"]]))
        metrics[name] = {**compute_metrics(embedder, config, splits, None), "effective rank": rank}
    return metrics


class TaskModality(Section):
    """The task of a fine-tuning YAML, of any modality."""

    model_config = {"extra": "ignore"}
    task: dict


def load_probe_splits(config: Evaluate, task: Task) -> dict[str, list[Example]]:
    """Load the splits of the probed task. Raises ConfigError for a task that cannot be probed."""
    if not task.load_problem_type().has_single_class:
        raise ConfigError(f"task: the probes need single-label classification; {config.task} is {task.problem_type}")
    if not isinstance(task.text, str):
        raise ConfigError(f"task: the probes need single texts; {config.task} has pairs of texts")
    splits = read_task(task)
    draw_samples(splits["train"], config.num_examples, 1, "num_examples")
    return splits


def load_sts_pairs(source: STSSource) -> list[tuple[str, str, float]]:
    """Load (first sentence, second sentence, score) of each pair. Raises DataError for a score that is not a number."""
    pairs = []
    for location, row in iter_located_rows(source):
        first, second = (get_text(row, column, location) for column in (source.first, source.second))
        score = get_scalar(row, source.score, location)
        try:
            pairs.append((first, second, float(score)))
        except ValueError:
            raise DataError(f"{location}: {score!r} in column {source.score!r} is not a number") from None
    if len({score for *_, score in pairs}) < 2:
        name = display_name(source)
        raise DataError(f"{name}: a correlation needs at least two different scores ({len(pairs)} pairs)")
    return pairs


def build_encoder_embedder(folder: Path, max_length: int, random_init: bool = False) -> tuple[Embedder, int]:
    """Return (function from texts to embeddings pooled as in sentence-transformers, their width)."""
    accelerator, title = make_accelerator("native"), "embeddings, random weights" if random_init else "embeddings"
    model = embed.load_model(folder, random_init=random_init).to(accelerator.device)
    embedder = embed.Embedder(model, read_pooling(folder) or "mean")

    def embed_texts(texts: list[str]) -> np.ndarray:
        examples = [Example((text,), "") for text in texts]
        dataset = tokenize_examples(examples, folder, max_length, str(folder), allow_empty=True)
        return np.stack(embed.run_batches(embedder, dataset, accelerator, progress_title=title))

    return embed_texts, model.config.hidden_size


def build_tfidf_embedder(texts: list[str], dim: int) -> Embedder:
    """Fit TF-IDF + truncated SVD on the evaluated texts, without their labels."""
    vectorizer = tfidf_vectorizer(texts, word_ngrams=(1, 1))
    matrix = vectorizer.fit_transform(texts)
    svd = TruncatedSVD(min(dim, matrix.shape[1] - 1), random_state=0).fit(matrix)
    return lambda texts: svd.transform(vectorizer.transform(texts)).astype(np.float32)


def compute_metrics(embedder: Embedder, config: Evaluate, splits: dict | None, pairs: list | None) -> dict[str, float]:
    """Compute the metrics of one embedder, by column of the table."""
    metrics = {}
    if pairs:
        first, second, scores = zip(*pairs, strict=True)
        metrics["sts_spearman"] = sts_spearman(embedder(list(first)), embedder(list(second)), np.array(scores))
    if splits:
        items = splits.items()
        embeddings = {split: embedder([example.texts[0] for example in examples]) for split, examples in items}
        labels = {split: np.array([example.label for example in examples]) for split, examples in items}
        samples = draw_samples(splits["train"], config.num_examples, config.seeds, "num_examples")
        for count, indices in samples.items():
            accuracies = [linear_probe_accuracy(embeddings, labels, sample) for sample in indices]
            metrics[f"linear probe, {count}"] = float(np.mean(accuracies))
        metrics["k-NN, all"] = knn_accuracy(embeddings, labels, config.num_neighbors)
    return metrics


def sts_spearman(first: np.ndarray, second: np.ndarray, scores: np.ndarray) -> float:
    """Compute Spearman's correlation of the cosine similarities with the scores."""
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosines = (first * second).sum(1) / np.maximum(norms, 1e-12)
    # Constant embeddings have no correlation; score them 0.
    return float(spearmanr(cosines, scores).statistic) if np.ptp(cosines) > 0 else 0.0


def linear_probe_accuracy(embeddings: Splits, labels: Splits, train_indices: list[int]) -> float:
    """Compute test accuracy of a logistic regression trained on the standardized embeddings at `train_indices`."""
    scaler = StandardScaler().fit(embeddings["train"])
    scaled = {split: scaler.transform(array) for split, array in embeddings.items()}
    train = scaled["train"][train_indices], labels["train"][train_indices]
    models = [LogisticRegression(C=strength, max_iter=2_000).fit(*train) for strength in INVERSE_REGULARIZATION]
    best = max(models, key=lambda model: model.score(scaled["validation"], labels["validation"]))
    return float(best.score(scaled["test"], labels["test"]))


def knn_accuracy(embeddings: Splits, labels: Splits, num_neighbors: int) -> float:
    """Compute test accuracy of a vote of the `num_neighbors` nearest training examples by cosine."""
    model = KNeighborsClassifier(min(num_neighbors, len(labels["train"])), metric="cosine")
    model.fit(embeddings["train"], labels["train"])
    return float(model.score(embeddings["test"], labels["test"]))
