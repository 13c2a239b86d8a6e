"""A linear probe of an image encoder on a labeled task: what pretraining gains for few labels."""

import numpy as np
import torch
from accelerate import Accelerator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from data.images.config import Pixels
from data.images.task import ImageStore, ImageTaskFile
from data.tasks.task import read_task
from engine.config.loader import load_config
from engine.errors import ConfigError
from pretrain.model.image_encoder import ImageEncoder, normalized
from pretrain.probe_samples import draw_samples

BATCH_SIZE = 64
INVERSE_REGULARIZATION = 0.01  # of a logistic regression on standardized embeddings


class ImageProbe:
    """Logistic regressions on frozen embeddings; test rows are never read. Raises ConfigError for other tasks."""

    def __init__(self, path: str, shots: list[int], seeds: int, pixels: Pixels):
        task = load_config(ImageTaskFile, [path]).task.model_copy(update={"pixels": pixels})
        if not task.load_problem_type().has_single_class:
            raise ConfigError(f"probe.task: needs single-label classification; {path} is {task.problem_type}")
        splits = read_task(task)
        train, validation, store = splits["train"], splits["validation"], ImageStore(task)
        if len({row.label for row in validation}) < 2:
            raise ConfigError(f"probe.task: the validation rows of {path} have a single class; add rows of the others")
        self.samples = draw_samples(train, shots, seeds, "probe.shots")
        self.pixels = store.read_pixels([*train, *validation])
        self.labels = np.array([str(example.label) for example in [*train, *validation]])
        self.num_train, self.measured = len(train), []

    @torch.no_grad()
    def measure(self, encoder: ImageEncoder, accelerator: Accelerator) -> dict[str, float]:
        """Return {"probe_auroc@N": mean AUROC on the validation rows} for each number of labels."""
        parts = [self.pixels[start : start + BATCH_SIZE] for start in range(0, len(self.pixels), BATCH_SIZE)]
        with accelerator.autocast():
            embeddings = [encoder.embed_images(normalized(encoder, part, accelerator.device)).cpu() for part in parts]
        features = torch.cat(embeddings).numpy()
        features = StandardScaler().fit(features[: self.num_train]).transform(features)
        scores = {
            count: [self.auroc(features, sample) for sample in samples] for count, samples in self.samples.items()
        }
        self.measured.append(np.concatenate(list(scores.values())))
        return {f"probe_auroc@{count}": float(np.mean(values)) for count, values in scores.items()}

    def describe_gain(self) -> tuple[bool, str]:
        """Return (whether the last measurement is above the first by more than a standard error, both in words).

        The differences are paired, one for each sample of training labels.
        """
        gains = self.measured[-1] - self.measured[0]
        error = gains.std(ddof=1) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
        return bool(gains.mean() > error), f"{gains.mean():+.3f} AUROC, standard error {error:.3f}"

    def auroc(self, features: np.ndarray, sample: list[int]) -> float:
        """Return the AUROC on the validation rows of a regression trained on a sample; of several classes, the mean.

        A class that no validation row has, as of very few rows, is left out.
        """
        model = LogisticRegression(C=INVERSE_REGULARIZATION, max_iter=2_000)
        probabilities = model.fit(features[sample], self.labels[sample]).predict_proba(features[self.num_train :])
        truth = self.labels[self.num_train :, None] == model.classes_
        known = [1] if len(model.classes_) == 2 else np.flatnonzero(truth.any(0))
        return float(np.mean([roc_auc_score(truth[:, index], probabilities[:, index]) for index in known]))
