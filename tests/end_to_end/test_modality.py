"""A modality of vectors, added by three new files alone, through real processes."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fork_server import Fork
from helpers import start_module
from safetensors.torch import load_file

SHARED = '''
"""Vectors of numbers, written as words: what both stages share."""

import json

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from data.modalities import Modality
from engine.files import write_folder, write_json


class VectorConfig(PreTrainedConfig):
    model_type = "vectors"

    def __init__(self, input_size=8, width=16, num_hidden_layers=2, **kwargs):
        self.input_size, self.width, self.num_hidden_layers = input_size, width, num_hidden_layers
        super().__init__(**kwargs)


class VectorModel(PreTrainedModel):
    config_class = VectorConfig
    base_model_prefix = "encoder"
    all_tied_weights_keys = {}

    def __init__(self, config):
        super().__init__(config)
        sizes = [config.input_size, *[config.width] * config.num_hidden_layers]
        pairs = zip(sizes[:-1], sizes[1:], strict=True)
        self.layer = nn.ModuleList(nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in pairs)

    def forward(self, vectors):
        for layer in self.layer:
            vectors = layer(vectors)
        return vectors

    def get_input_embeddings(self):
        return None

    get_output_embeddings = get_input_embeddings


class VectorClassifier(PreTrainedModel):
    config_class = VectorConfig
    base_model_prefix = "encoder"
    all_tied_weights_keys = {}

    def __init__(self, config):
        super().__init__(config)
        self.encoder = VectorModel(config)
        self.classifier = nn.Linear(config.width, config.num_labels)

    def forward(self, vectors):
        return SequenceClassifierOutput(logits=self.classifier(self.encoder(vectors)))


def parse(lines):
    return np.array([[float(word) for word in line.split()] for line in lines], dtype=np.float32)


def load(folder, model_class, random_init=False, **settings):
    config = VectorConfig.from_pretrained(folder, **settings)
    torch.manual_seed(0)
    model = model_class(config)
    if not random_init:
        weights = torch.load if False else __import__("safetensors.torch").torch.load_file
        (model.encoder if hasattr(model, "encoder") else model).load_state_dict(weights(folder / "model.safetensors"))
    return model


class Vectors(Modality):
    name, input_noun, inputs_noun, unit = "vectors", "vector", "vectors", "vectors"

    def auto_class(self, problem_type):
        return "AutoModel"

    def pipeline_task(self, problem_type):
        return "tabular-classification"


MODALITY = Vectors()
'''
PRETRAIN = '''
"""Pretraining on vectors: two noisy copies of a vector are a positive pair."""

from pathlib import Path

import numpy as np
import torch
from data.modalities.vectors import VectorConfig, VectorModel, parse
from torch.nn import functional as F

from engine.files import file_hash, write_folder, write_json
from engine.training.step import MicroBatch
from pretrain import modalities
from pretrain.config import Pretrain
from pretrain.model.base import BaseEncoder


class Config(Pretrain):
    """Pretrain an encoder on vectors."""

    file: str
    """Text file with a vector in each line."""
    noise: float = 0.3
    """Standard deviation of the noise."""


class Encoder(BaseEncoder):
    def embed(self, num_inputs, vectors):
        return self.model(vectors)


class Dataset:
    def __init__(self, vectors, noise):
        self.vectors, self.noise = vectors, noise

    def __len__(self):
        return len(self.vectors)

    def warning(self):
        return ""

    def collate(self, indices, generators):
        views = [
            self.vectors[index] + self.noise * generator.normal(size=(2, self.vectors.shape[1]))
            for index, generator in zip(indices, generators, strict=True)
        ]
        group_ids = torch.tensor(indices)[:, None].expand(-1, 2).contiguous()
        vectors = torch.from_numpy(np.concatenate(views).astype(np.float32))
        return MicroBatch({"vectors": vectors, "group_ids": group_ids}, 2 * len(indices))


class Modality(modalities.Modality):
    def prepare(self):
        vectors = parse(Path(self.config.file).read_text().splitlines())
        self.train, self.held_out = vectors[:-20], vectors[-20:]
        return {"vectors": file_hash(Path(self.config.file))}

    def build_encoder(self):
        torch.manual_seed(self.config.seed)
        model = VectorModel(VectorConfig(input_size=self.train.shape[1]))
        names = frozenset(name for name, _ in model.named_parameters())
        return Encoder(model, model.config.width, names)

    def build_dataset(self, objective_file):
        self.dataset = Dataset(self.train, self.config.noise)
        return self.dataset

    def dataset_at(self, step):
        return self.dataset, 1

    def build_validator(self, with_head):
        generators = [np.random.default_rng(index) for index in range(len(self.held_out))]
        inputs = Dataset(self.held_out, self.config.noise).collate(list(range(len(self.held_out))), generators).inputs

        @torch.no_grad()
        def validate(encoder):
            embeddings = F.normalize(encoder.embed(0, inputs["vectors"]), dim=-1).unflatten(0, (-1, 2))
            hits = (embeddings[:, 0] @ embeddings[:, 1].T).argmax(1) == torch.arange(len(embeddings))
            return {"retrieval_acc@1": hits.float().mean().item(), "num_candidates": len(embeddings)}

        return validate

    def save_encoder(self, encoder, folder, record, card, with_head):
        def fill(path):
            encoder.model.save_pretrained(path)
            write_json(path / "record.json", record)
            (path / "README.md").write_text(card)

        write_folder(folder, fill)
'''
FINETUNE = '''
"""Fine-tuning on vectors."""

import numpy as np
import torch
from data.modalities.vectors import VectorClassifier, load, parse

from engine.training.step import MicroBatch
from finetune import modalities
from finetune.config import Finetune
from finetune.model.network import Network


class Config(Finetune):
    """Fine-tune an encoder of vectors."""


class Dataset:
    def __init__(self, vectors, labels):
        self.vectors, self.labels, self.lengths = vectors, labels, np.ones(len(vectors), dtype=np.int64)

    def get_inputs(self, indices):
        return {"vectors": torch.from_numpy(self.vectors[indices])}

    def get_batch(self, indices, augment=None, generators=None):
        return MicroBatch({**self.get_inputs(indices), "labels": torch.from_numpy(self.labels[indices])}, len(indices))


class Modality(modalities.Modality):
    linear_baseline = "raw", "raw vectors"

    def build_dataset(self, examples, folder, description, label_names=None):
        labels = self.problem_type.encode_labels(examples, label_names) if label_names else None
        return Dataset(parse([example.texts[0] for example in examples]), labels)

    def build_network(self, folder, label_names, random_init):
        names = {"num_labels": len(label_names), "id2label": dict(enumerate(label_names))}
        return Network(load(folder, VectorClassifier, random_init, **names))

    def fit_features(self, examples):
        return lambda rows: parse([row.texts[0] for row in rows])
'''
RUN = """
import sys
from importlib import import_module
for package in ("data", "pretrain", "finetune"):
    module = import_module(f"{package}.modalities")
    module.__path__.append(f"ADDED/{package}")
import_module("headstart.__main__").main()
"""
CLASSES = ["low", "middle", "high"]


def write_vectors(folder: Path) -> None:
    """Write unlabeled vectors, and labeled ones with classes by a direction in them."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(400, 8))
    scores = vectors[:, 0] + vectors[:, 1]
    lines = [" ".join(f"{value:.3f}" for value in vector) for vector in vectors]
    (folder / "vectors.txt").write_text("\n".join(lines) + "\n")
    labels = [CLASSES[int(score > -0.6) + int(score > 0.6)] for score in scores]
    rows = [json.dumps({"text": line, "label": label}) for line, label in zip(lines, labels, strict=True)]
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Return a folder with the modality's three files and data, and a function that starts a command there."""
    folder = tmp_path_factory.mktemp("modality")
    for package, source in (("data", SHARED), ("pretrain", PRETRAIN), ("finetune", FINETUNE)):
        (folder / "added" / package).mkdir(parents=True)
        (folder / "added" / package / "vectors.py").write_text(source, encoding="utf-8")
    (folder / "run.py").write_text(RUN.replace("ADDED", str(folder / "added")), encoding="utf-8")
    write_vectors(folder)
    return folder, lambda *args: start_module("run.py", *args, prefix=(), cwd=folder)


def finish(process: Fork, code: int = 0) -> str:
    """Return what a command that must end with this code wrote."""
    done = process.complete(120)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout


PRETRAIN_ARGS = (
    *("pretrain", "modality=vectors", "file=vectors.txt", "objective.name=contrastive", "train.lr=0.01"),
    *("train.batch_size=32", "train.steps=60", "train.save_every=10", "train.eval_every=30", "train.precision=float32"),
)
FINETUNE_ARGS = (
    *("finetune", "run=tuned", "encoder=out/runs/whole/encoder", "task.modality=vectors", "task.name=levels"),
    *("task.train.files=rows.jsonl", "train.epochs=4", "train.precision=float32", "layers.unfreeze_every=1"),
)


def test_a_modality_of_three_files_pretrains_resumes_and_finetunes(toy):
    folder, start = toy
    output = finish(start(*PRETRAIN_ARGS, "run=whole"))
    assert "vectors per second" in output and "retrieval" in output
    process, run = start(*PRETRAIN_ARGS, "run=killed", "train.keep_checkpoints=99"), folder / "out/runs/killed"
    while not (run / "step-000020").is_dir() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    finish(start(*PRETRAIN_ARGS, "run=killed", "train.keep_checkpoints=99"))
    whole, killed = (load_file(folder / f"out/runs/{run}/encoder/model.safetensors") for run in ("whole", "killed"))
    assert whole.keys() == killed.keys() and all(torch.equal(whole[name], killed[name]) for name in whole)
    record = json.loads((folder / "out/runs/whole/encoder/record.json").read_text())
    assert record["modality"] == "vectors" and record["eval"]["num_candidates"] == 20
    card = (folder / "out/runs/whole/encoder/README.md").read_text()
    assert "A vector encoder" in card and "text" not in card.partition("## Licenses")[0].lower().replace("context", "")

    output = finish(start(*FINETUNE_ARGS))
    metrics = json.loads((folder / "out/runs/tuned/metrics.json").read_text())
    assert metrics["test"]["accuracy"] > 0.6 and metrics["modality"] == "vectors"
    assert metrics["baselines"]["raw"]["name"] == "raw vectors + logistic regression" and "raw vectors" in output
    assert (folder / "out/runs/tuned/report.html").is_file()
    assert "is finished" in finish(start(*FINETUNE_ARGS))


def test_keys_of_another_modality_are_refused(toy):
    _, start = toy
    assert finish(start(*PRETRAIN_ARGS, "run=no", "max_length=64"), 2).startswith("max_length: no such key")
    output = finish(start("pretrain", "modality=sounds", "run=no"), 2)
    assert output == "modality: no 'sounds' (there are: images, text, vectors)\n"
