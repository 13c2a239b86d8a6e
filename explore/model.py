"""A fine-tuned model's predictions for inputs."""

from __future__ import annotations

import numpy as np

from data.classifier import Classifier
from data.encoders import hash_weights
from engine.errors import ConfigError
from engine.models.embed import run_batches
from engine.training.distributed import make_accelerator
from explore.modalities import Modality
from explore.steps import Steps


class Model:
    """A classifier. Raises ConfigError or DataError if it has not one class for each input of the modality."""

    def __init__(self, name: str, modality: Modality):
        self.classifier, self.modality = Classifier(name), modality
        shared = modality.shared
        if not self.classifier.problem_type.has_single_class or self.classifier.modality.name != shared.name:
            raise ConfigError(f"model: {self.classifier.folder} does not give one class to each {shared.input_noun}")
        self.names: list[str] = list(self.classifier.names)
        self.key = hash_weights(self.classifier.folder)

    def predict(self, indices: np.ndarray, key: str, steps: Steps) -> np.ndarray:
        """Return the probabilities of inputs, float32 (inputs, classes). key: fingerprint of the inputs."""

        def compute() -> dict[str, np.ndarray]:
            accelerator, size = make_accelerator("float32"), self.modality.part_inputs
            network, outputs = self.classifier.place(accelerator.device), []
            for start in range(0, len(indices), size):
                examples = self.classifier.read(self.modality.list_examples(indices[start : start + size]))
                title = f"predict {min(start + size, len(indices)):,} of {len(indices):,}"
                outputs += run_batches(network, examples, accelerator, progress_title=title)
            return {"probabilities": np.stack([self.classifier.split_output(row)[0] for row in outputs])}

        return steps.get("model", [key, self.key], compute)["probabilities"].astype(np.float32)
