"""Task-adaptive pretraining on the unlabeled training texts (Gururangan et al. 2020) with `python -m pretrain`."""

import os

from data.tasks.task import TaskFile
from engine.config.loader import dump_config
from engine.errors import DataError
from engine.files import write_text
from engine.runs.background import run_child
from engine.runs.run import RUNS_FOLDER
from finetune.config import Finetune

TASK_FILENAME = "task.yaml"  # marks the run folder of an encoder adapted to one task
LAUNCHER_ENV_VARS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables by which a process knows that it is one of several. The pretraining command is not."""


def run_task_adaptive_pretraining(config: Finetune, encoder: str, is_main: bool = True) -> str:
    """Pretrain `encoder` for `tapt.steps` steps on the task's texts and return the new encoder's folder.

    An interrupted run is resumed and a finished one reused. The main process must call this first. Raise DataError if
    pretraining fails; the command has then printed the reason.
    """
    name = f"{config.run}-adapted"
    folder, task_file = RUNS_FOLDER / name / "encoder", RUNS_FOLDER / name / TASK_FILENAME
    if not is_main:
        return str(folder)
    task_file.parent.mkdir(parents=True, exist_ok=True)
    write_text(task_file, dump_config(TaskFile(task=config.task)))
    args = [
        config.tapt.config,
        f"run={name}",
        f"init={encoder}",
        f"train.steps={config.tapt.steps}",
        f"seed={config.seed}",
        f"corpus.name={name}",
        f"corpus.sources=[{{task: {task_file}}}]",
        *config.tapt.keys,
    ]
    env = {key: value for key, value in os.environ.items() if key not in LAUNCHER_ENV_VARS}
    if run_child(["pretrain", *args], env) or not (folder / "record.json").is_file():
        raise DataError(
            "tapt.steps: pretraining on the task's texts did not finish; the command was python -m pretrain"
            f" {' '.join(args)}"
        )
    return str(folder)
