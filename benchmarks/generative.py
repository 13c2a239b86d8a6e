"""Measure objectives that make images: anomaly scores of a vae, and samples and probe of a gan.

    python benchmarks/generative.py anomaly [seeds=3]
    python benchmarks/generative.py gan [seeds=3]

`anomaly` trains `configs/pretrain/vae.yaml` on functional solar cells alone and scores the 600 test cells of the task
`solar`, next to the five nearest neighbors by the built-in encoder. `gan` trains `configs/pretrain/gan.yaml` and
compares its samples with those of a Gaussian fitted to 64 principal components of the training images, and a
logistic regression on the embeddings of its discriminator with one on random weights, at 500 labels. Runs in out/runs
are not repeated. Writes sections of benchmarks/RESULTS.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import results  # before the packages of the repository, which it makes importable
import torch
from image_labels import RUNS, describe
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from data.encoders import resolve_encoder
from data.images.config import Pixels
from data.images.processor import Processor
from data.images.shards import PixelShards, prepare_pixels
from data.images.task import ImageStore, ImageTaskFile
from data.sampling import take_evenly
from data.tasks.task import read_task, sample_examples
from engine.config.loader import load_config
from engine.files import read_json, write_json
from pretrain.config import Pretrain
from pretrain.frechet import SampleQuality, to_images
from pretrain.generator import load_generator, sample_images
from pretrain.model.batch_statistics import computed_statistics
from pretrain.model.image_encoder import (
    ImageEncoder,
    image_encoder_from_config,
    image_encoder_from_pretrained,
    measure_channels,
    normalized,
    statistics_batches,
)
from pretrain.model.variational import describe_images, latent_distances

NUM_NEIGHBORS, NUM_COMPONENTS, NUM_SAMPLES = 5, 64, 1_000
NUM_LABELS, NUM_FITTED, NUM_TEST = 500, 20_000, 2_000
INVERSE_REGULARIZATION = 0.01  # of a logistic regression on standardized embeddings


def embed(encoder: ImageEncoder, pixels: np.ndarray) -> np.ndarray:
    """Return embeddings, float32 (images, width)."""
    with torch.no_grad():
        parts = [normalized(encoder, pixels[start : start + 64], "cpu") for start in range(0, len(pixels), 64)]
        return torch.cat([encoder.embed_images(part) for part in parts]).numpy()


def timed_run(args: list[str], run: str) -> float:
    """Pretrain unless the run is finished; return its CPU seconds, also of an earlier call."""
    record = RUNS / f"{run}.json"
    if not record.is_file():
        start, command = os.times(), [sys.executable, "-m", "pretrain", *args, f"run={run}"]
        subprocess.run(command, cwd=results.ROOT, check=True, stdout=subprocess.DEVNULL)
        end = os.times()
        seconds = end.children_user + end.children_system - start.children_user - start.children_system
        write_json(record, {"seconds": seconds})
    return read_json(record)["seconds"]


def run_config(path: str) -> tuple[Pretrain, Path]:
    """Return a configuration and the folder of its corpus's pixels."""
    config = load_config(Pretrain, [path])
    return config, prepare_pixels(config.corpus, config.pixels.size, config.pixels.channels)


def load_encoder(config: Pretrain, folder: Path) -> ImageEncoder:
    """Return the encoder in a folder."""
    return image_encoder_from_pretrained(folder, config.pixels.size, config.pixels.channels, 0.0).eval()


def read_cells(config: Pretrain, folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return (pixels, whether each is defective) of the validation and the test cells.

    Validation cells are the functional ones that are held out of the corpus, and the task's defective ones that are
    not test rows.
    """
    task = load_config(ImageTaskFile, ["configs/finetune/solar.yaml"]).task
    task = task.model_copy(update={"num_examples": None, "pixels": Pixels(size=config.pixels.size)})
    splits, store = read_task(task), ImageStore(task)
    defective = [row for row in [*splits["train"], *splits["validation"]] if row.label == "defective"]
    held_out = PixelShards(folder, "held_out").pixels
    validation = np.concatenate([held_out, store.read_pixels(defective)])
    return {
        "validation": (validation, np.arange(len(validation)) >= len(held_out)),
        "test": (store.read_pixels(splits["test"]), np.array([row.label == "defective" for row in splits["test"]])),
    }


def score_cells(config: Pretrain, run: Path, normal: np.ndarray, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the scores of cells by a finished run, each higher for unusual ones."""
    encoder, decoder = load_encoder(config, run / "encoder"), load_generator(run / "generator")
    error, divergence, means = (part.numpy() for part in describe_images(encoder, decoder, pixels))
    known = describe_images(encoder, decoder, normal)[2].numpy()
    objective = config.objective
    return {
        "vae: error and divergence": error / (2 * objective.pixel_std**2) + objective.beta * divergence.sum(1),
        "vae: distance of latent vectors": latent_distances(known, means),
        "vae: distance of embeddings": latent_distances(embed(encoder, normal), embed(encoder, pixels)),
    }


def measure_anomaly(seeds: int) -> None:
    """Compare the scores of a vae with those of the built-in encoder."""
    path = "configs/pretrain/vae.yaml"
    config, folder = run_config(path)
    cells, normal = read_cells(config, folder), np.array(PixelShards(folder, "train").pixels)
    encoder = load_encoder(config, resolve_encoder(config.init))
    aurocs: dict[str, list[tuple[float, ...]]] = {}

    def add(name: str, scores: list[np.ndarray]) -> None:
        found = tuple(roc_auc_score(labels, each) for each, (_, labels) in zip(scores, cells.values(), strict=True))
        aurocs.setdefault(name, []).append(found)
        print(name, *(f"{value:.3f}" for value in found), flush=True)

    known, vectors = embed(encoder, normal), [embed(encoder, pixels) for pixels, _ in cells.values()]
    neighbors = NearestNeighbors(n_neighbors=NUM_NEIGHBORS).fit(known)
    add("darkness", [-pixels.mean((1, 2, 3)) for pixels, _ in cells.values()])
    add(f"{config.init}: {NUM_NEIGHBORS} nearest", [neighbors.kneighbors(each)[0].mean(1) for each in vectors])
    add(f"{config.init}: {NUM_NEIGHBORS} nearest, whitened", [latent_distances(known, each) for each in vectors])
    seconds = []
    for seed in range(seeds):
        run = f"bench-vae-{seed}"
        seconds.append(timed_run([path, f"seed={seed}"], run))
        scores = [score_cells(config, RUNS / run, normal, pixels) for pixels, _ in cells.values()]
        for name in scores[0]:
            add(name, [each[name] for each in scores])
    lines = [
        [name, *(describe([found[column] for found in values]) for column in (0, 1))] for name, values in aurocs.items()
    ]
    size, count = config.pixels.size, len(cells["test"][0])
    note = (
        f"AUROC of defective cells at {size} x {size} pixels; nothing but {len(normal)} functional cells is learned"
        f" from. {count} test cells; validation cells, by which a score would be chosen, are held-out functional and"
        f" other defective ones. vae: {seeds} seeds (standard deviation), {max(seconds):.0f} CPU seconds each."
    )
    body = f"{note}\n\n{results.markdown_table(['score', 'validation', 'test'], lines)}"
    print(body)
    results.write_section("Solar cells: anomaly scores of a vae", "python benchmarks/generative.py anomaly", body)


def probe(encoder: ImageEncoder, train: list[tuple[np.ndarray, list]], test: tuple[np.ndarray, list]) -> np.ndarray:
    """Return the test accuracy of a logistic regression on the embeddings of each training set of images and labels."""
    features, accuracies = embed(encoder, test[0]), []
    for pixels, labels in train:
        scaler = StandardScaler().fit(known := embed(encoder, pixels))
        model = LogisticRegression(C=INVERSE_REGULARIZATION, max_iter=2_000).fit(scaler.transform(known), labels)
        accuracies.append(float((model.predict(scaler.transform(features)) == np.array(test[1])).mean()))
    return np.array(accuracies)


def measure_probes(config: Pretrain, folder: Path, trained: Path, seeds: int) -> dict[str, np.ndarray]:
    """Return the accuracies of the discriminator, and of random weights with the seed of the sample."""
    task = load_config(ImageTaskFile, ["configs/finetune/fashion-mnist.yaml"]).task
    task = task.model_copy(update={"num_examples": None})
    splits, store = read_task(task, needs_validation=False), ImageStore(task)

    def read(rows: list) -> tuple[np.ndarray, list]:
        return store.read_pixels(rows), [row.label for row in rows]

    train = [read(sample_examples(splits["train"], NUM_LABELS, seed)) for seed in range(seeds)]
    test, pixels, baseline = read(take_evenly(splits["test"], NUM_TEST)), PixelShards(folder, "train").pixels, []
    for seed, sample in enumerate(train):
        torch.manual_seed(seed)
        processor = Processor(config.pixels.size, *measure_channels(pixels))
        encoder = image_encoder_from_config(config.model, processor, 0.0).eval()
        with computed_statistics(encoder.model, statistics_batches(encoder, pixels, torch.device("cpu"))):
            baseline.append(probe(encoder, [sample], test)[0])
    return {"discriminator": probe(load_encoder(config, trained), train, test), "random weights": np.array(baseline)}


def gaussian_samples(pixels: np.ndarray) -> torch.Tensor:
    """Return samples of a Gaussian fitted to principal components of images."""
    values = to_images(pixels[:NUM_FITTED])
    flat = values.flatten(1)
    _, scales, directions = torch.pca_lowrank(flat, NUM_COMPONENTS, niter=4)
    noise = torch.randn(NUM_SAMPLES, NUM_COMPONENTS, generator=torch.Generator().manual_seed(0))
    samples = flat.mean(0) + noise * scales / (len(flat) - 1) ** 0.5 @ directions.T
    return samples.clamp(0, 1).view(-1, *values.shape[1:])


def measure_gan(seeds: int) -> None:
    """Compare the samples and the embeddings of a gan with those of simpler models."""
    path, run = "configs/pretrain/gan.yaml", "gan"
    config, folder = run_config(path)
    seconds = timed_run([path], run)
    quality, held_out = SampleQuality(NUM_SAMPLES), PixelShards(folder, "held_out").pixels
    train_pixels = PixelShards(folder, "train").pixels
    makers = {
        "training images": to_images(train_pixels[:NUM_SAMPLES]),
        f"Gaussian, {NUM_COMPONENTS} principal components": gaussian_samples(train_pixels),
        "gan": sample_images(load_generator(RUNS / run / "generator"), NUM_SAMPLES),
    }
    lines = []
    for name, samples in makers.items():
        quality.lowest = float("inf")  # no training goes from one of them to the next
        found = quality.measure(samples, held_out)
        lines.append([name, f"{found['frechet_distance']:.0f}", f"{found['sample_rank']:.1f}"])
        print(*lines[-1], flush=True)
    table = results.markdown_table(["1,000 images", "Fréchet distance", "effective rank"], lines)
    accuracies = measure_probes(config, folder, RUNS / run / "encoder", seeds)
    gains = 100 * (accuracies["discriminator"] - accuracies["random weights"])
    rows = [[name, describe(list(values))] for name, values in accuracies.items()]
    rows.append(["gain in points", f"{gains.mean():+.1f} ± {results.half_interval(gains):.1f}"])
    body = (
        f"One run of {seconds:.0f} CPU seconds on one thread. Features of efficientnet-lite0 at 96"
        f" pixels; held-out images are compared with.\n\n{table}\n\nAccuracy on {NUM_TEST:,} test images of a"
        f" logistic regression on embeddings of {NUM_LABELS} labeled images, {seeds} samples (standard deviation; 95%"
        f" interval of the paired gain).\n\n{results.markdown_table(['embeddings', 'accuracy'], rows)}"
    )
    print(body)
    results.write_section("Fashion-MNIST: samples of a gan", "python benchmarks/generative.py gan", body)


def main(args: list[str]) -> None:
    """Run the benchmarks that are named."""
    options, names = results.parse_options(args, seeds="3")
    measures = {"anomaly": measure_anomaly, "gan": measure_gan}
    for name in names:
        measures[name](int(options["seeds"]))


if __name__ == "__main__":
    main(sys.argv[1:])
