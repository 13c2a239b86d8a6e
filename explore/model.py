"""A fine-tuned model's predictions for inputs."""

from __future__ import annotations

import numpy as np

from data.classifier import Classifier
from data.encoders import hash_weights
from data.tasks.splits import Example
from engine.errors import ConfigError
from engine.models.embed import run_batches
from engine.training.distributed import make_accelerator
from explore.steps import Steps


class Model:
    """A classifier. Raises ConfigError or DataError if it has not one class for each text."""

    def __init__(self, name: str):
        self.classifier = Classifier(name)
        if not self.classifier.problem_type.has_single_class or self.classifier.modality.name != "text":
            raise ConfigError(f"model: {self.classifier.folder} does not give one class to each text")
        self.names: list[str] = list(self.classifier.names)
        self.key = hash_weights(self.classifier.folder)

    def predict(self, texts: list[str], key: str, steps: Steps) -> np.ndarray:
        """Return the probabilities of texts, float32 (texts, classes). key: fingerprint of the texts."""

        def compute() -> dict[str, np.ndarray]:
            accelerator = make_accelerator("float32")
            network = self.classifier.place(accelerator.device)
            examples = self.classifier.read([Example((text,), "") for text in texts])
            outputs = run_batches(network, examples, accelerator, progress_title="predict")
            return {"probabilities": np.stack([self.classifier.split_output(row)[0] for row in outputs])}

        return steps.get("model", [key, self.key], compute)["probabilities"].astype(np.float32)
