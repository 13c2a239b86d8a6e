"""Task-adaptive pretraining: stage one once more, on the task's own training texts without their labels (Gururangan et al.
2020). It is the command `python -m pretrain`, a run of its own; the link is the encoder folder it leaves, as always.
"""

from __future__ import annotations

import os
import subprocess
import sys

from data.tasks.task import TaskFile
from engine.config.loader import dump_config
from engine.errors import DataError
from engine.files import write_text
from engine.runs.run import RUNS_FOLDER
from finetune.config import Finetune

TASK_FILENAME = "task.yaml"  # in the run's folder: whose texts its encoder was adapted to
# What tells a process that it is one of several: the command below is not.
LAUNCHER_ENV_VARS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


def run_task_adaptive_pretraining(config: Finetune, encoder: str, is_main: bool = True) -> str:
    """The encoder folder of `encoder` pretrained on the task's texts for `tapt.steps` steps more.

    A run that was stopped goes on, one that is finished is taken as it is. Called by the main process first. Raises
    DataError when pretraining could not be done; it has then said why.
    """
    name = f"{config.run}-adapted"
    found = RUNS_FOLDER / name / "encoder"
    if not is_main:
        return str(found)
    task = RUNS_FOLDER / name / TASK_FILENAME
    task.parent.mkdir(parents=True, exist_ok=True)
    write_text(task, dump_config(TaskFile(task=config.task)))
    words = [
        config.tapt.config,
        f"run={name}",
        f"init={encoder}",
        f"train.steps={config.tapt.steps}",
        f"seed={config.seed}",
        f"corpus.name={name}",
        f"corpus.sources=[{{task: {task}}}]",
        *config.tapt.keys,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pretrain", *words],
        env={key: value for key, value in os.environ.items() if key not in LAUNCHER_ENV_VARS},
    )
    if done.returncode or not (found / "record.json").is_file():
        raise DataError(
            f"tapt.steps: pretraining on the task's texts was not finished; the command was python -m pretrain"
            f" {' '.join(words)}"
        )
    return str(found)
