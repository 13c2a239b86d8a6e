"""Explore inputs step by step: vectors, clusters, neighbors and positions, then what to label first.

out/explore/NAME/
map.html      the map, with what to label first, near duplicates, odd inputs and labels that look wrong
queue.csv     the inputs to label, in order
clusters.csv  the clusters, with names and typical inputs
map.parquet   a row for each input
report.json   all numbers; README.md: a summary
vectors.npy   the encoder's vectors, by which labeling shows the nearest labeled inputs
images/       of images in archives and tables, those of the queue as files
steps/        results of steps, with which the same command goes on after an interruption
"""

from __future__ import annotations

import numpy as np
from transformers.utils import logging

from data.cache import OUTPUT_DIR, fingerprint
from data.encoders import resolve_encoder
from engine.files import read_json
from engine.log import get_logger
from engine.system.lock import acquire
from explore import cluster, labels, layout, names, neighbors
from explore.baselines import NUM_NEIGHBORS, MapQuality, draw_sample, measure_baselines
from explore.config import Explore
from explore.inputs import list_classes, load_task, name_inputs
from explore.labels import Suspect
from explore.map import Map
from explore.modalities import load_modality
from explore.model import Model
from explore.output import write_outputs
from explore.queue import build_queue, split_unlabeled
from explore.report import make_report
from explore.steps import Steps

logger = get_logger(__name__)


class Exploration:
    """The exploration of a configuration. Raises ConfigError or DataError before anything is written."""

    def __init__(self, config: Explore):
        task = load_task(config)
        self.name = name_inputs(config, task)
        self.folder = OUTPUT_DIR / "explore" / self.name
        self.config = complete_source(config, self.folder) if task else config
        self.modality = load_modality(self.config, resolve_encoder(config.encoder))
        self.model = Model(config.model, self.modality) if config.model else None
        self.inputs = self.modality.read(task)
        self.key, self.steps = self.inputs.fingerprint(), Steps(self.folder / "steps")
        self.seed, self.texts = config.seed, self.inputs.texts
        self.classes = self.model.names if self.model else list_classes(self.inputs)

    def run_step(self, name: str, settings: list, compute) -> dict[str, np.ndarray]:
        """Return the arrays of a step that depends on the vectors of all inputs."""
        config = self.config
        modality = self.modality
        common = [self.key, *modality.encoder.key, modality.is_static, self.seed, config.num_clusters]
        return self.steps.get(name, [common, *settings], compute)

    def map_inputs(self, vectors: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        """Return the arrays of all steps of the map, by step."""
        config, seed = self.config, self.seed
        count = min(config.num_clusters or cluster.choose_num_clusters(len(vectors)), len(vectors))
        logger.info(f"  clusters  {len(self.texts):,} {self.modality.shared.inputs_noun}, {count} clusters")
        points = self.run_step("points", [], lambda: {"points": cluster.reduce(vectors, seed)})["points"]
        cells = self.run_step("cells", [], lambda: {"cells": cluster.fit_kmeans(points, count, seed)})["cells"]

        def make_clusters() -> dict[str, np.ndarray]:
            is_kmeans = config.clusters == "kmeans"
            found = cells if is_kmeans else cluster.fit_clusters(points, self.texts, config.clusters, count, seed)
            return dict(zip(("clusters", "groups"), cluster.order_by_tree(points, found), strict=True))

        method = [config.clusters]
        clusters = self.run_step("clusters", method, make_clusters)
        owners, groups = clusters["clusters"], clusters["groups"]
        measure = (points, owners, groups, self.texts, config.clusters, seed)
        measured = [*method, *["no seed"] * (config.clusters == "hdbscan")]  # earlier results of it had a stability
        found = {
            "clusters": clusters,
            "mixture": self.run_step("mixture", method, lambda: cluster.fit_mixture(points, owners, seed)),
            "measures": self.run_step("measures", measured, lambda: cluster.measure_clusters(*measure)),
        }
        logger.info("  neighbors near duplicates and odd ones")
        similarity = config.duplicate_similarity
        is_indexed = neighbors.uses_index(len(vectors))

        def search() -> dict[str, np.ndarray]:
            copies = self.modality.find_copies()
            if is_indexed:
                return neighbors.search_index(vectors, similarity, copies)
            return neighbors.search_cells(vectors, cells, similarity, copies)

        found["search"] = self.run_step("search", [similarity, *["faiss"] * is_indexed], search)
        logger.info(f"  layout    {config.layout}")
        found["layout"] = self.run_step(
            "layout", [config.layout], lambda: {"positions": layout.make_layout(points, cells, config.layout, seed)}
        )
        typicality, typical = names.find_typical(points, owners, len(groups))
        return found | {"typical": {"typicality": typicality, "typical": typical}}

    def predict(self, encoded: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray | None, str]:
        """Return class probabilities of the encoded inputs, (encoded, classes), and where they are from."""
        if self.model:
            return self.model.predict(encoded, fingerprint([self.key, encoded.tolist()]), self.steps), "model"
        known, class_ids = self.list_labeled(encoded, {"train"})
        if len(known):
            return labels.predict_from_labels(vectors.astype(np.float32), known, class_ids, len(self.classes)), "labels"
        found = self.modality.predict_from_names(encoded, vectors, self.classes)
        return found, "names" if found is not None else ""

    def list_labeled(self, encoded: np.ndarray, roles: set[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return (positions in `encoded`, class ids) of the different labeled inputs with a role."""
        ids, labeled = {name: number for number, name in enumerate(self.classes)}, set(self.inputs.find_labeled())
        found = [
            (position, ids[self.inputs.labels[index]])
            for position, index in enumerate(encoded)
            if index in labeled and self.inputs.labels[index] in ids and self.inputs.roles[index] in roles
        ]
        return np.array([each for each, _ in found], np.int64), np.array([each for _, each in found], np.int64)

    def find_suspects(self, encoded: np.ndarray, vectors: np.ndarray) -> list[Suspect]:
        """Return the labels that look wrong, of all roles."""
        known, class_ids = self.list_labeled(encoded, {"train", "measure"})
        count = self.config.num_suspects
        found = labels.find_suspects(vectors, known, class_ids, len(self.classes), count, self.seed)
        return [suspect._replace(index=int(encoded[suspect.index])) for suspect in found]

    def measure(self, encoded: np.ndarray, probabilities: np.ndarray | None) -> labels.Measured | None:
        """Return the accuracy of the model on the different rows for measuring; None without a model or such rows."""
        measure = [index for index in self.inputs.find_labeled() if self.inputs.roles[index] == "measure"]
        if not self.model or not measure:
            return None
        positions = {int(index): position for position, index in enumerate(encoded)}
        predicted = [self.classes[int(probabilities[positions[index]].argmax())] for index in measure]
        correct = sum(name == self.inputs.labels[index] for name, index in zip(predicted, measure, strict=True))
        return labels.measure_accuracy(correct, len(measure))

    def suggest(
        self, encoded: np.ndarray, probabilities: np.ndarray | None, suspects: list[Suspect]
    ) -> dict[int, tuple[str, float]]:
        """Return the suggested label and its probability of encoded inputs; of suspects, by the other labels."""
        if not self.config.suggest:
            return {}
        best = probabilities.argmax(1).tolist() if probabilities is not None else []
        found = {
            int(index): (self.classes[number], float(probabilities[position, number]))
            for position, (index, number) in enumerate(zip(encoded, best, strict=bool(best)))
        }
        return found | {each.index: (self.classes[each.suggestion], each.suggestion_probability) for each in suspects}

    def compare(self, encoded: np.ndarray, vectors: np.ndarray) -> list[MapQuality]:
        """Return the quality of the map by the encoder's vectors and by simpler ones."""
        if not self.config.baselines:
            return []
        logger.info("  baselines simpler vectors of the same inputs")
        sample = draw_sample(encoded, self.inputs.labels, self.seed)
        if len(sample.drawn) < NUM_NEIGHBORS:  # of very many texts, nearly all of them equal
            return []
        own = vectors[np.searchsorted(encoded, sample.indices)]
        found = self.modality.list_baselines(sample.indices)
        key = [self.key, *self.modality.encoder.key]
        return measure_baselines(own, found, sample, self.inputs.labels, self.steps, key, self.seed)

    def run(self) -> Map:
        """Run all steps, write the files and return what was found."""
        unlabeled = split_unlabeled(self.inputs, self.seed)
        vectors, encoded, read = self.modality.embed(self.key, unlabeled, self.steps)
        found = self.map_inputs(vectors)
        read = read.astype(np.float32)
        probabilities, suggested_by = self.predict(encoded, read)
        suspects = self.find_suspects(encoded, read)
        uncertain = None if suggested_by == "names" else probabilities  # names say nothing of what is hard to decide
        queue = build_queue(self.inputs, unlabeled, read, encoded, uncertain, suspects, self.config)
        owners, groups = found["clusters"]["clusters"], found["clusters"]["groups"]
        by_group = np.where(owners >= 0, groups[owners], -1).astype(np.int32)
        result = Map(
            self.name,
            self.inputs,
            owners,
            groups,
            self.modality.name_clusters(owners, len(groups), self.seed, "cluster"),
            self.modality.name_clusters(by_group, int(groups.max()) + 1, self.seed, "group"),
            found["typical"]["typical"],
            found["layout"]["positions"],
            found["typical"]["typicality"],
            neighbors.rank_oddness(found["search"]["distance"], found["mixture"]["density"]),
            found["search"],
            found["mixture"],
            found["measures"],
            queue,
            suspects,
            self.suggest(encoded, probabilities, suspects),
            suggested_by,
            self.measure(encoded, probabilities),
            unlabeled.is_reserved,
            self.compare(encoded, read),
        )
        result.report = make_report(result, self.config, self.classes, self.modality)
        write_outputs(self.folder, result, self.modality, None if self.modality.is_static else vectors)
        self.steps.remove_others()
        return result


def complete_source(config: Explore, folder) -> Explore:
    """Return the configuration with the inputs of the last round of the same name, if it has none but those labeled."""
    path = folder / "report.json"
    if config.source or config.corpus or not path.is_file():
        return config
    last = read_json(path).get("config", {})
    if not (last.get("source") or last.get("corpus")):
        return config
    logger.info(f"inputs of the last round: {last.get('corpus') or last['source'].get('files')}")
    return config.model_copy(
        update={
            "source": type(config)(source=last["source"]).source if last.get("source") else None,
            "corpus": last.get("corpus"),
            **({"sentences": last["sentences"]} if "sentences" in last else {}),
        }
    )


def explore(config: Explore) -> None:
    """Run the command. Raises ConfigError or DataError for a user's mistake before anything is written."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    exploration = Exploration(config)
    folder = exploration.folder
    folder.mkdir(parents=True, exist_ok=True)
    lock = acquire(folder, way_out=f"choose another name: name={folder.name}-2")
    found = exploration.run()
    lock.release()
    logger.info(
        "\n".join(
            [
                found.report["sentence"],
                *(f"  {note}" for note in found.report["notes"]),
                f"  map     {folder}/map.html",
                f"  queue   {folder}/queue.csv",
                *([f"  next    {command}"] if (command := found.report["next"]) else []),
            ]
        )
    )
