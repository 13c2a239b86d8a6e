"""Where a run can be watched besides its own log.jsonl: `tracker=` names one of Accelerate's trackers.

All are told the same keys: those of log.jsonl, an evaluation's figures as evaluation/NAME.

    tensorboard   out/runs/NAME/tensorboard     tensorboard --logdir out/runs
    wandb         out/runs/NAME/wandb           WANDB_MODE=offline needs no account; wandb sync sends it later
    trackio       where trackio keeps them      trackio show
    mlflow        out/mlflow.db                 mlflow ui --backend-store-uri sqlite:///out/mlflow.db
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator

PROJECT = "headstart"
TRACKER_PACKAGES = {
    "mlflow": ("mlflow",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}


def require_installed(name: str) -> str:
    """`name`, when its package is there. Raises ValueError, which the configuration tells as the key's mistake."""
    found = [importlib.util.find_spec(package) for package in TRACKER_PACKAGES.get(name, ())]
    if name != "none" and not any(each and each.origin for each in found):  # a mere folder of that name has no origin
        raise ValueError(f"{name} is not installed; pip install {name}, or leave tracker=none")
    return name


TrackerName = Annotated[Literal["none", "tensorboard", "wandb", "trackio", "mlflow"], AfterValidator(require_installed)]


def flatten_metrics(entry: dict, prefix: str = "") -> dict[str, float]:
    """The numbers of a line of log.jsonl by the keys every tracker is told; the step, which they are told apart, is not
    among them.
    """
    found = {}
    for key, value in entry.items():
        if isinstance(value, dict):
            found |= flatten_metrics(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and prefix + key != "step":
            found[prefix + key] = value
    return found


def start_tracker(name: str, folder: Path, config: dict[str, object], step: int = 0) -> Any:
    """Accelerate's tracker of that name, told the run's name and its flat configuration; None for none.

    step: what it is going on from; tensorboard then drops what a killed run had told of later ones.
    """
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
    if name != "tensorboard":  # which would make each start a run more, of no curve
        tracker.store_init_configuration({key: str(value) for key, value in config.items()})
    return tracker
