"""TODO."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator

from engine.runs.progress import Progress
from engine.training.distributed import gather_list, shard_list
from finetune.dataset import TextDataset

EVAL_BATCH_SIZE = 64  # texts predicted together


@torch.no_grad()
def predict(
    head: torch.nn.Module,
    dataset: TextDataset,
    accelerator: Accelerator,
    batch_size: int = EVAL_BATCH_SIZE,
    progress_title: str | None = None,
) -> list[np.ndarray]:
    """What the head says of every text, in their order, the same on every process.

    progress_title: under which a person is told how far it is; none: nobody is.
    """
    head.eval()
    ordered = np.argsort(dataset.lengths, kind="stable")
    batches = [ordered[at : at + batch_size] for at in range(0, len(ordered), batch_size)]
    found, own = [], shard_list(batches, accelerator)
    with Progress(
        progress_title, len(own), 0, progress_title is not None and accelerator.is_main_process, "batch"
    ) as progress:
        for places in own:
            inputs = {name: tensor.to(accelerator.device) for name, tensor in dataset.get_inputs(places).items()}
            with accelerator.autocast():
                found.append((places, head.predict(**inputs).cpu().numpy()))
            progress.update(len(found), f"{batch_size * progress.rate(len(found)):,.0f} texts/s")
    found = gather_list(found, accelerator)
    by_place = {place: value for places, values in found for place, value in zip(places, values)}
    return [by_place[place] for place in range(len(ordered))]
