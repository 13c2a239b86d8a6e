"""Prediction with a head, over all processes."""

import numpy as np
import torch
from accelerate import Accelerator

from engine.runs.progress import Progress
from engine.training.distributed import gather_list, shard_list
from finetune.dataset import TextDataset

EVAL_BATCH_SIZE = 64


@torch.no_grad()
def predict(
    head: torch.nn.Module,
    dataset: TextDataset,
    accelerator: Accelerator,
    batch_size: int = EVAL_BATCH_SIZE,
    progress_title: str | None = None,
) -> list[np.ndarray]:
    """Return the head's prediction for each text, in order, on every process, with a progress bar if it has a title."""
    head.eval()
    order = np.argsort(dataset.lengths, kind="stable")
    batches = shard_list([order[start : start + batch_size] for start in range(0, len(order), batch_size)], accelerator)
    visible, outputs = progress_title is not None and accelerator.is_main_process, []
    with Progress(progress_title, len(batches), 0, visible, "batch") as progress:
        for indices in batches:
            inputs = {name: tensor.to(accelerator.device) for name, tensor in dataset.get_inputs(indices).items()}
            with accelerator.autocast():
                outputs.append((indices, head.predict(**inputs).cpu().numpy()))
            progress.update(len(outputs), f"{batch_size * progress.rate(len(outputs)):,.0f} texts/s")
    outputs = gather_list(outputs, accelerator)
    by_index = {index: row for indices, rows in outputs for index, row in zip(indices, rows, strict=True)}
    return [by_index[index] for index in range(len(order))]
