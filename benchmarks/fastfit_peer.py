"""Train FastFit 1.2.1 (Yehudai and Bandel 2024) on the rows of a file: a contender of benchmarks/fewshot.py.

    fastfit/bin/python benchmarks/fastfit_peer.py ROWS.json ENCODER_FOLDER SEED

It needs an environment of its own (transformers 4.38, datasets 2.18, numpy below 2), so it imports nothing of this
project. ROWS.json: {"train": {"text": [...], "label": [...]}, "test": {...}}. Settings are those of its documentation;
it reads the names of the classes. Prints {"accuracy", "train_seconds"}.
"""

import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path

import fastfit.train
from datasets import Dataset, DatasetDict

SETTINGS = {
    "num_train_epochs": 40,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 64,
    "max_text_length": 128,
    "dataloader_drop_last": False,
    "num_repeats": 4,
    "optim": "adafactor",
    "clf_loss_factor": 0.1,
    "save_strategy": "no",
    "overwrite_output_dir": True,
    "text_column_name": "text",
    "label_column_name": "label",
}


class Accuracy:
    """The metric that FastFit would download."""

    def compute(self, predictions, references) -> dict[str, float]:
        """Return the fraction of equal elements."""
        return {"accuracy": float((predictions == references).mean())}


def train_and_score(rows_path: str, encoder_folder: str, seed: str) -> dict[str, float]:
    """Return the accuracy on the test rows, evaluated once after training, and the seconds of training."""
    rows = json.loads(Path(rows_path).read_text(encoding="utf-8"))
    train, test = (Dataset.from_dict(rows[split]) for split in ("train", "test"))
    dataset = DatasetDict(train=train, validation=test, test=test)  # it requires all three
    fastfit.train.load_metric = lambda *args, **kwargs: Accuracy()
    with tempfile.TemporaryDirectory() as folder:
        settings = {**SETTINGS, "model_name_or_path": encoder_folder, "output_dir": folder, "seed": int(seed)}
        trainer = fastfit.FastFitTrainer(dataset=dataset, **settings)
        start = time.time()
        trainer.train()
        seconds = time.time() - start
        return {"accuracy": trainer.evaluate()["eval_accuracy"], "train_seconds": seconds}


if __name__ == "__main__":
    with contextlib.redirect_stdout(io.StringIO()):
        result = train_and_score(*sys.argv[1:])
    print(json.dumps(result))
