"""Task-adaptive pretraining: stage one once more, on the task's own training texts without their labels (Gururangan et al.
2020). It is the command `python -m pretrain`, a run of its own; the link is the encoder folder it leaves, as always.
"""

from __future__ import annotations

import os
import subprocess
import sys

from data.config import TaskFile
from engine import record
from engine.config import dump
from engine.errors import DataError
from engine.files import write_text
from finetune.config import Finetune

TASK = "task.yaml"  # in the run's folder: whose texts its encoder was adapted to
# What tells a process that it is one of several: the command below is not.
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


def adapted(config: Finetune, encoder: str, is_main: bool = True) -> str:
    """The encoder folder of `encoder` pretrained on the task's texts for `adapt.steps` steps more.

    A run that was stopped goes on, one that is finished is taken as it is. Called by the main process first. Raises
    DataError when pretraining could not be done; it has then said why.
    """
    name = f"{config.run}-adapted"
    found = record.RUNS / name / "encoder"
    if not is_main:
        return str(found)
    task = record.RUNS / name / TASK
    task.parent.mkdir(parents=True, exist_ok=True)
    write_text(task, dump(TaskFile(task=config.task, head={"name": config.head.name})))
    words = [config.adapt.config, f"run={name}", f"init={encoder}", f"train.steps={config.adapt.steps}",
             f"seed={config.seed}", f"corpus.name={name}", f"corpus.sources=[{{task: {task}}}]", *config.adapt.keys]
    done = subprocess.run([sys.executable, "-m", "pretrain", *words],
                          env={key: value for key, value in os.environ.items() if key not in LAUNCHED})
    if done.returncode or not (found / "record.json").is_file():
        raise DataError(f"adapt.steps: pretraining on the task's texts was not finished; the command was python -m pretrain"
                        f" {' '.join(words)}")
    return str(found)
