"""What is trained: the configuration of each objective's pretraining, and the start that it is compared with."""

from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from compare.config import DEFAULT_INIT, Compare
from data.encoders import resolve_encoder
from engine.config.loader import find_file, merge, read_args, read_yaml, validate
from engine.config.schema import list_plugins
from engine.errors import ConfigError
from engine.files import read_json
from pretrain.config import Pretrain

CORPUS_FOLDER, TASK_FOLDER, PRETRAIN_FOLDER = (Path("configs") / name for name in ("corpus", "finetune", "pretrain"))
BASES = {"text": ("scratch", "default"), "images": ("images-scratch", "images")}
"""Configurations by modality: of a new network, and with init where the objective has no file of its own."""
DATA_KEYS = ("corpus", "pixels", "probe")
"""Keys of a configuration that are left out: the corpus has its own, and a probe could replace what was trained."""
UNTRAINED = {"steps": 1, "lr": 1e-30, "optimizer": "adamw", "eval_every": 1, "save_every": 1}
"""Settings of a step that changes no weight of a new network, which is so saved as it is built."""
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
    return (
        read_yaml(PRETRAIN_FOLDER / f"{BASES[modality][1]}.yaml")["init"]
        if config.init == DEFAULT_INIT
        else config.init
    )


def is_transformer(init: str) -> bool:
    """Return whether an encoder of images reads patches."""
    return read_json(resolve_encoder(init) / "config.json").get("model_type") in TRANSFORMERS


def build_tree(config: Compare, corpus: dict, objective: str, init: str | None) -> dict:
    """Return the configuration of an objective: its own file's where there is one, else that of its modality."""
    modality, path = corpus.get("modality", "text"), PRETRAIN_FOLDER / f"{objective}.yaml"
    base = read_yaml(PRETRAIN_FOLDER / f"{BASES[modality][bool(init)]}.yaml")
    own = read_yaml(path) if path.is_file() else {}
    own = own if own.get("modality", "text") == modality else {}
    section = next(
        (tree["objective"] for tree in (own, base) if tree.get("objective", {}).get("name") == objective), {}
    )
    tree = {key: value for key, value in (own if own and init else base).items() if key not in DATA_KEYS}
    if own and not init:  # a batch that suits the objective, at the rates of a new network
        tree = merge(tree, {"train": {"batch_size": own["train"]["batch_size"]}})
    if objective != "mlm":
        tree.pop("short_sequence_fraction", None)
    tree = merge(merge(tree, corpus), {"objective": {**section, "name": objective}, "init": init})
    return merge(tree, read_args(config.pretrain))


def make_plans(config: Compare, corpus: dict, init: str | None) -> list[Plan]:
    """Return the untrained new networks, then the objectives. Raises ConfigError for settings that are not valid."""
    modality, plans, starts = corpus.get("modality", "text"), [], {}
    for objective in config.objectives:
        tree, start = build_tree(config, corpus, objective, init), "start"
        shape = tree.get("model", {}).get("architecture", "network")
        has_patches = is_transformer(init) if init and modality == "images" else shape in TRANSFORMERS
        network = init or f"new {shape}"
        if modality == "images" and objective in OWN_NETWORKS and not has_patches:
            shape = OWN_NETWORKS[objective]["architecture"]
            tree, network = merge(tree, {"init": None, "model": OWN_NETWORKS[objective]}), f"new {shape}, its own"
            start = start if init else f"start {shape}"
        validate_tree(objective, tree)
        plans.append(Plan(objective, tree, start, network))
        if not init:
            starts.setdefault(start, Plan(start, merge(tree, {"train": UNTRAINED}), start, f"new {shape}"))
    return [*starts.values(), *plans]


def validate_tree(objective: str, tree: dict) -> None:
    """Raise ConfigError for settings that are not valid, or an objective of another modality."""
    train = {"steps": 1, **tree.get("train", {})}
    try:
        config = validate(Pretrain, {**tree, "run": objective, "train": train})
    except ConfigError as error:
        raise ConfigError("\n".join(f"{objective}: {line}" for line in str(error).splitlines())) from None
    dataset = getattr(import_module(f"pretrain.objectives.{objective}"), "Dataset", None)
    modality = getattr(dataset, "modality", config.modality)
    if modality in list_plugins("data.modalities") and modality != config.modality:
        raise ConfigError(f"objectives: {objective} is for modality={modality}, and the corpus for {config.modality}")
