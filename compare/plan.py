"""What is trained: the configuration of each objective's pretraining, and the start that it is compared with."""

import json
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from compare.config import DEFAULT_INIT, Compare
from data.encoders import resolve_encoder
from engine.config.loader import find_file, merge, read_args, read_yaml, validate
from engine.errors import ConfigError
from engine.files import read_json
from pretrain.config import Pretrain
from pretrain.modalities import list_datasets

CORPUS_FOLDER, TASK_FOLDER, PRETRAIN_FOLDER = (Path("configs") / name for name in ("corpus", "finetune", "pretrain"))
BASES = {"text": ("scratch", "default"), "images": ("images-scratch", "images")}
"""Configurations by modality: of a new network, and with init where the objective has no file of its own."""
DATA_KEYS = ("corpus", "pixels", "probe")
"""Keys of a configuration that are left out: the corpus has its own, and a probe could replace what was trained."""
UNTRAINED = {"steps": 1, "lr": 1e-30, "optimizer": "adamw", "eval_every": 1, "save_every": 1}
"""Settings of a step that changes no weight of a new network, which is so saved as it is built."""
RATES = ("lr", "optimizer", "matrix_lr", "steps", "eval_every", "save_every", "log_every")
"""Settings of training that depend on the start, or that the budget replaces."""
NETWORK_KEYS = ("model", "tokenizer", "max_length")
"""Keys that determine a new network; objectives with the same ones have the same start."""
TRANSFORMERS = ("vit", "dinov2")
OWN_NETWORKS = dict.fromkeys(("mae", "dino"), {"architecture": "vit", "layers": 4, "hidden_size": 128, "patch_size": 4})
"""Networks of objectives of images that need a transformer, where the start is none."""


class Plan(NamedTuple):
    """One objective, or a start without training."""

    name: str
    """The objective; of a start, `start`, or with the architecture of its network."""
    tree: dict
    """Configuration of the pretraining, without run, seed and steps."""
    start: str
    """Name of the start that it is compared with."""
    network: str
    """Name of the network, for the table."""

    @property
    def is_start(self) -> bool:
        """Whether nothing is trained."""
        return self.name == self.start


def read_corpus(config: Compare) -> dict:
    """Return the keys of the corpus's file. Raises ConfigError if it has no corpus."""
    path = find_file(config.corpus, CORPUS_FOLDER, "corpus")
    tree = read_yaml(path)
    if not isinstance(tree.get("corpus"), dict):
        raise ConfigError(f"corpus: {path} has no section `corpus`")
    return {key: value for key, value in tree.items() if key not in ("run", "init", "objective", "probe")}


def find_tasks(config: Compare, corpus: dict) -> list[Path]:
    """Return the files of the tasks. Raises ConfigError if none is given and none goes with the corpus."""
    section = corpus["corpus"]
    tasks = config.tasks or section.get("tasks") or section.get("decontaminate", {}).get("tasks", [])[:1]
    if not tasks and (TASK_FOLDER / f"{section.get('name')}.yaml").is_file():
        tasks = [section["name"]]
    if not tasks:
        raise ConfigError(f"tasks: no task goes with {config.corpus}; name one, tasks=[sentiment]")
    return [find_file(task, TASK_FOLDER, "tasks") for task in dict.fromkeys(tasks)]


def find_init(config: Compare, modality: str) -> str | None:
    """Return the encoder that all start from; None: a new network."""
    if config.init != DEFAULT_INIT:
        return config.init
    return read_yaml(PRETRAIN_FOLDER / f"{BASES[modality][True]}.yaml")["init"]


def has_patches(init: str) -> bool:
    """Return whether an encoder of images is a transformer."""
    return read_json(resolve_encoder(init) / "config.json").get("model_type") in TRANSFORMERS


def build_tree(config: Compare, corpus: dict, objective: str, init: str | None) -> dict:
    """Return the configuration of an objective: that of its own file if it is for such a start, else of its modality.

    The latter gets from the own file the objective's section and the settings of training, but not the rates.
    """
    modality, path = corpus.get("modality", "text"), PRETRAIN_FOLDER / f"{objective}.yaml"
    own = read_yaml(path) if path.is_file() else {}
    own = own if own.get("modality", "text") == modality else {}
    tree = read_yaml(PRETRAIN_FOLDER / f"{BASES[modality][bool(init)]}.yaml")
    if own and bool(own.get("init")) == bool(init):
        tree = own
    elif own:
        train = {key: value for key, value in own.get("train", {}).items() if key not in RATES}
        tree = merge(tree, {"objective": own["objective"], "train": train})
    section = tree["objective"] if tree.get("objective", {}).get("name") == objective else {}
    tree = {key: value for key, value in tree.items() if key not in DATA_KEYS}
    if objective != "mlm":
        tree.pop("short_sequence_fraction", None)
    tree = merge(merge(tree, corpus), {"objective": {**section, "name": objective}, "init": init})
    return merge(tree, read_args(config.pretrain))


def make_plans(config: Compare, corpus: dict, init: str | None) -> list[Plan]:
    """Return the untrained new networks, then the objectives. Raises ConfigError for settings that are not valid."""
    plans: list[Plan] = []
    starts: dict[str, Plan] = {}  # by the configuration of the network
    for objective in config.objectives:
        check_modality(objective, corpus.get("modality", "text"))
        tree = build_tree(config, corpus, objective, init)
        shape = tree.get("model", {}).get("architecture", "network")
        network, is_own = init or f"new {shape}", False
        if objective in OWN_NETWORKS and not (has_patches(init) if init else shape in TRANSFORMERS):
            tree, is_own = merge(tree, {"init": None, "model": OWN_NETWORKS[objective]}), True
            network = f"new {OWN_NETWORKS[objective]['architecture']}"
        validate_tree(objective, tree)
        start = "start"
        if not init:
            name = f"start {objective}" if starts else "start"
            plan = Plan(name, merge(tree, {"train": UNTRAINED}), name, network)
            start = starts.setdefault(json.dumps([tree.get(key) for key in NETWORK_KEYS]), plan).name
        plans.append(Plan(objective, tree, start, f"{network}, its own" if is_own or start != "start" else network))
    return [*starts.values(), *plans]


def check_modality(objective: str, modality: str) -> None:
    """Raise ConfigError for an objective of other modalities."""
    datasets = list_datasets(import_module(f"pretrain.objectives.{objective}"))
    if datasets is not None and modality not in datasets:
        modalities = " or ".join(datasets)
        raise ConfigError(f"objectives: {objective} is for modality={modalities}, and the corpus for {modality}")


def validate_tree(objective: str, tree: dict) -> None:
    """Raise ConfigError for settings that are not valid."""
    try:
        validate(Pretrain, {**tree, "run": objective, "train": {"steps": 1, **tree.get("train", {})}})
    except ConfigError as error:
        raise ConfigError("\n".join(f"{objective}: {line}" for line in str(error).splitlines())) from None
