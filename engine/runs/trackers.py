"""Experiment trackers: `tracker=` selects one of Accelerate's, which gets the keys of log.jsonl, metrics as eval/NAME.

tensorboard   out/runs/NAME/tensorboard     tensorboard --logdir out/runs
wandb         out/runs/NAME/wandb           WANDB_MODE=offline needs no account; upload later with wandb sync
trackio       trackio's own folder          trackio show
mlflow        out/mlflow.db                 mlflow ui --backend-store-uri sqlite:///out/mlflow.db
"""

import importlib.util
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

PROJECT = "headstart"
TRACKER_PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX")}


def require_installed(name: str) -> str:
    """Return `name` if its package is installed, else raise ValueError."""
    specs = [importlib.util.find_spec(package) for package in TRACKER_PACKAGES.get(name, (name,))]
    if name != "none" and not any(spec and spec.origin for spec in specs):  # a plain folder has no origin
        raise ValueError(f"{name} is not installed; pip install {name}, or set tracker=none")
    return name


TrackerName = Annotated[Literal["none", "tensorboard", "wandb", "trackio", "mlflow"], AfterValidator(require_installed)]


def flatten(tree: dict, prefix: str = "", separator: str = ".") -> dict:
    """Flatten a nested mapping to one with joined keys."""
    flat = {}
    for key, value in tree.items():
        is_mapping = isinstance(value, dict) and value
        flat |= flatten(value, f"{prefix}{key}{separator}", separator) if is_mapping else {f"{prefix}{key}": value}
    return flat


def flatten_metrics(entry: dict) -> dict[str, float]:
    """Flatten the numbers of a log.jsonl entry to tracker keys, without the step."""
    flat = flatten(entry, separator="/")
    return {key: value for key, value in flat.items() if isinstance(value, (int, float)) and key != "step"}


def start_tracker(name: str, folder: Path, config: dict[str, object], step: int = 0) -> Any:
    """Start Accelerate's tracker of that name, None for "none"; at a resume TensorBoard drops events after `step`."""
    if name == "none":
        return None
    from accelerate import tracking  # loads torch

    if name == "tensorboard":
        tracker = tracking.TensorBoardTracker("tensorboard", folder, purge_step=step + 1 if step else None)
    elif name == "wandb":
        tracker = tracking.WandBTracker(PROJECT, name=folder.name, dir=str(folder))
    elif name == "trackio":
        tracker = tracking.TrackioTracker(PROJECT, name=folder.name)
    else:
        database = folder.parent.parent / "mlflow.db"
        os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
        tracker = tracking.MLflowTracker(PROJECT, run_name=folder.name)
    tracker.start()
    if name != "tensorboard":  # TensorBoard would add a run without curves at each start
        tracker.store_init_configuration({key: str(value) for key, value in config.items()})
    return tracker
