"""A fine-tuned model as it predicts: probabilities, and the distance to the training rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data.encoders import resolve_encoder
from data.modalities import find_architecture, find_modality
from data.tasks.confidence import load_confidence
from data.tasks.detector import load_detector
from data.tasks.novelty import NUM_NEIGHBORS, load_novelty, score_vectors
from data.tasks.problem_types import ProblemType, check_decoding, load_problem_type, output_names
from data.tasks.problem_types.anomaly_detection import ANOMALOUS, NORMAL
from engine.config.schema import list_plugins
from engine.errors import ConfigError, DataError, list_siblings, suggest
from engine.files import read_json
from engine.kernels import attention
from engine.models.embed import Inputs
from engine.models.load import load_pretrained
from engine.runs.record import read_record
from engine.runs.run import RUNS_FOLDER

NUM_EXTRA = 1 + NUM_NEIGHBORS  # the score and the nearest training rows, after the outputs


def find_model_folder(name: str) -> Path:
    """Return the local folder of a fine-tuned model, downloaded if needed. Raises DataError with the nearest name."""
    run = RUNS_FOLDER / name
    if "/" not in name and not Path(name).is_dir():
        if not run.is_dir():
            runs = list_siblings(run)
            raise DataError(f"{name}: no folder or run of this name{suggest(name, runs)}; a hub model is OWNER/NAME")
        name = str(run)
    if Path(name).is_dir() and any(Path(name).glob("step-*")) and not (Path(name) / "config.json").is_file():
        raise DataError(f"{name}: not finished; rerun its command first")
    return resolve_encoder(name)


def find_problem_type(folder: Path, record: dict, config: dict) -> ProblemType:
    """Return what a model predicts. Raises DataError for an encoder and for a model of another kind."""
    architecture = find_architecture(config)
    known = list_plugins("data.tasks.problem_types")
    labels_words = architecture.endswith("ForTokenClassification")
    if record.get("kind") == "model" and record["problem_type"] in known:
        found = load_problem_type(record["problem_type"])
        expected = found.transformers_problem_type
        if found.labels_words != labels_words or expected and config.get("problem_type", expected) != expected:
            raise DataError(f"{folder}: its record has problem_type {found.name}, and config.json another one")
        return found
    if labels_words:
        return load_problem_type("token_classification")
    if not architecture.endswith(("ForSequenceClassification", "ForImageClassification")):
        is_encoder = record.get("kind") == "encoder" or architecture.endswith("Model")
        hint = "fine-tune it first" if is_encoder else "no classifier of texts or images"
        raise DataError(f"{folder}: predicts no labels (its architecture is {architecture or 'unknown'}); {hint}")
    name = config.get("problem_type") if config.get("problem_type") in known else None
    is_number = len(config.get("id2label", {0: "", 1: ""})) == 1
    return load_problem_type(name or ("regression" if is_number else "single_label_classification"))


class Classifier(nn.Module):
    """A model with its problem type, and what is known of its errors. Raises DataError if it cannot predict."""

    def __init__(self, name: str, max_length: int | None = None):
        super().__init__()
        self.folder = find_model_folder(name)
        self.config, self.record = read_json(self.folder / "config.json"), read_record(self.folder)
        self.problem_type = find_problem_type(self.folder, self.record, self.config)
        check_decoding(self.folder, self.config)
        self.modality = find_modality(self.folder, self.record, self.config)
        if max_length and self.modality.name != "text":
            raise ConfigError(f"max_length: {self.folder} reads {self.modality.inputs_noun}")
        auto_class = self.modality.auto_class(self.problem_type)
        self.model, missing = load_pretrained(self.folder, auto_class, self.problem_type.name.replace("_", " "))
        if missing := sorted(name for name in missing if "position_ids" not in name):
            raise DataError(f"{self.folder}: has no weights for {missing[0]}; not a fine-tuned model")
        if self.modality.name == "text":
            attention.use_fast_attention(self.model)
        # As transformers has it: a folder without names has LABEL_0, LABEL_1, ...
        self.config["id2label"] = {str(index): str(name) for index, name in self.model.config.id2label.items()}
        self.detector = load_detector(self.folder) if self.problem_type.is_detector else None
        self.names = [NORMAL, ANOMALOUS] if self.detector else output_names(self.config)
        self.confidence, arrays = load_confidence(self.folder)
        self.novelty = load_novelty(arrays)
        self.temperature = self.confidence.temperature if self.confidence else 1.0
        trained = self.record.get("config", {})
        self.max_length = max_length or trained.get("max_length")
        self.known: tuple[Tensor, ...] = ()
        self.read: Callable[[list], Inputs] = self.modality.make_reader(self.folder, self.max_length, self.problem_type)

    def place(self, device: torch.device) -> Classifier:
        """Move the network and the known vectors to a device."""
        found = self.detector or self.novelty
        self.known = found.to_tensors(device) if found else ()
        return self.to(device).eval()

    def predict(self, **inputs: Tensor) -> Tensor:
        """Return the outputs, (inputs, outputs) or (inputs, tokens, tags), with NUM_EXTRA numbers if vectors are known.

        Outputs are calibrated probabilities, or a number as the model gives it. A detector has these numbers alone.
        """
        if self.detector:
            states, layers = self.model(**inputs).hidden_states, self.detector.layers.tolist()
            vectors = self.modality.join_layers(states, layers, inputs.get("attention_mask"))
            return self.detector.score_vectors(vectors, self.known)
        output = self.model(**inputs, output_hidden_states=bool(self.known))
        values = self.problem_type.activate(output.logits.float() / self.temperature)
        if not self.known:
            return values
        states = output.hidden_states if output.get("hidden_states") is not None else output.encoder_hidden_states
        with torch.autocast(values.device.type, enabled=False):
            extra = score_vectors(self.modality.pool_states(states, inputs).float(), self.known)
        if values.ndim == 3:
            extra = extra[:, None].expand(-1, values.shape[1], -1)
        return torch.cat([values, extra], -1)

    def split_output(self, output: np.ndarray) -> tuple[np.ndarray, float | None, list[int]]:
        """Return (outputs, score, nearest training rows) of one input from what `predict` returned."""
        if not self.known:
            return output, None, []
        extra = output[..., -NUM_EXTRA:].reshape(-1, NUM_EXTRA)[0]
        return output[..., :-NUM_EXTRA], float(extra[0]), [int(index) for index in extra[1:]]
