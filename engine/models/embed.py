"""Run a network over many inputs: in batches of similar length, on any number of processes, with outputs in order.

A data set of inputs has `lengths`, int64 (inputs,), and `get_inputs(indices)`, the network's padded inputs for some of
them. Prediction, probes and embeddings all go through `run_batches`; `run_stream` does it for inputs without end.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import transformers
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import PreTrainedModel

from engine.kernels import attention
from engine.models.load import load_pretrained
from engine.runs.progress import Progress
from engine.training.distributed import gather_list, shard_list

BATCH_SIZE = 64


class Inputs(Protocol):
    """A data set of inputs."""

    lengths: np.ndarray

    def get_inputs(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Return the network's inputs for these indices, each (inputs, ...)."""


@dataclass
class Subset:
    """Some inputs of a data set, int64 (inputs,) indices."""

    inputs: Inputs
    indices: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each input."""
        return self.inputs.lengths[self.indices]

    def get_inputs(self, indices: np.ndarray) -> dict[str, Tensor]:
        """Return the network's inputs for these positions of `indices`."""
        return self.inputs.get_inputs(self.indices[indices])


def load_model(folder: Path, auto_class: str = "AutoModel", random_init: bool = False) -> PreTrainedModel:
    """Load a network in float32, in evaluation mode. Raises DataError if transformers cannot.

    auto_class: the name of a class of transformers. random_init: take its shape only.
    """
    model, _ = load_pretrained(folder, auto_class)
    if random_init:
        model = getattr(transformers, auto_class).from_config(model.config)
    attention.use_fast_attention(model)
    return model.eval()


def pool(states: Tensor, attention_mask: Tensor, pooling: str = "mean") -> Tensor:
    """Pool hidden states (inputs, length, width) to embeddings (inputs, width).

    pooling: mean, cls (the first state) or lasttoken (the last one before the padding, which is on the right).
    """
    if pooling == "cls":
        return states[:, 0]
    if pooling == "lasttoken":
        return states[torch.arange(len(states), device=states.device), attention_mask.sum(1) - 1]
    mask = attention_mask[..., None]
    return (states * mask).sum(1) / mask.sum(1)


class Embedder(nn.Module):
    """Pools a network's last hidden states to embeddings, float32 (inputs, width)."""

    def __init__(self, model: PreTrainedModel, pooling: str = "mean"):
        super().__init__()
        self.model, self.pooling = model, pooling

    def predict(self, **inputs: Tensor) -> Tensor:
        """Return the embeddings of the inputs of one batch."""
        return pool(self.model(**inputs).last_hidden_state.float(), inputs["attention_mask"], self.pooling)


def pool_positions(states: Tensor) -> Tensor:
    """Return the mean over the positions of a convolutional network's states or a transformer's, float32."""
    return states.float().mean((2, 3) if states.ndim == 4 else 1)


class ImageEmbedder(nn.Module):
    """Pools an image encoder's last hidden states, as pretraining does, to embeddings, float32 (images, width)."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def predict(self, pixel_values: Tensor) -> Tensor:
        """Return the embeddings of the images of one batch."""
        return pool_positions(self.model(pixel_values=pixel_values).last_hidden_state)


@torch.no_grad()
def run_batches(
    module: nn.Module,
    inputs: Inputs,
    accelerator: Accelerator,
    batch_size: int = BATCH_SIZE,
    progress_title: str | None = None,
    autocast: bool = True,
) -> list[np.ndarray] | list[tuple[np.ndarray, ...]]:
    """Return `module.predict` of each input, in order, on every process, with a progress bar if it has a title.

    Where `predict` returns a tuple of tensors, each input's output is a tuple of arrays. autocast: whether to compute
    in the accelerator's precision instead of float32.
    """
    module.eval()
    order = np.argsort(inputs.lengths, kind="stable")
    batches = shard_list([order[start : start + batch_size] for start in range(0, len(order), batch_size)], accelerator)
    visible, outputs = progress_title is not None and accelerator.is_main_process, []
    with (
        Progress(progress_title, len(batches), 0, visible, "batch") as progress,
        accelerator.autocast() if autocast else nullcontext(),  # around all batches: weights are converted once
    ):
        for indices in batches:
            tensors = {name: tensor.to(accelerator.device) for name, tensor in inputs.get_inputs(indices).items()}
            predicted = module.predict(**tensors)
            is_tuple = isinstance(predicted, tuple)
            arrays = [tensor.cpu().numpy() for tensor in (predicted if is_tuple else (predicted,))]
            outputs.append((indices, list(zip(*arrays, strict=True)) if is_tuple else arrays[0]))
            progress.update(len(outputs), f"{batch_size * progress.rate(len(outputs)):,.0f} inputs/s")
    outputs = gather_list(outputs, accelerator)
    by_index = {index: row for indices, rows in outputs for index, row in zip(indices, rows, strict=True)}
    return [by_index[index] for index in range(len(order))]


def run_stream(
    items: Iterable, run: Callable[[list], list[np.ndarray]], window: int
) -> Iterator[tuple[object, np.ndarray]]:
    """Yield (item, output) for each item, in order, with no more than `window` items in memory.

    run: returns the outputs of a list of items, as `run_batches` does.
    """
    iterator = iter(items)
    while part := list(islice(iterator, window)):
        yield from zip(part, run(part), strict=True)
