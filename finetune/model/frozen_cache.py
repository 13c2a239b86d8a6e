"""Cache of the frozen layers' hidden states.

While the embeddings and the layers up to a boundary are frozen, and so run without dropout, their output is a constant
of each text. `FrozenLayerCache` computes it when a text is first seen and starts the encoder at the boundary.
The rest of training is unaware of it. States are computed in fixed groups of texts of similar length, not in batches,
so that they are the same after a resume and on every process; each process keeps what it uses. Groups are recomputed
when the boundary moves down or the weights below it change (to those of the best evaluation, or to an average).
"""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from data.tokens.dataset import TextDataset

GROUP_SIZE = 32  # texts


class ConstantEmbeddings(nn.Module):
    """Replacement for the embeddings that returns known states."""

    def __init__(self, states: Tensor):
        super().__init__()
        self.states = states

    def forward(self, *_, **__) -> Tensor:
        """Return the states."""
        return self.states


class StopForward(Exception):  # noqa: N818 (no error)
    """Raised at the boundary: the layers above it are not needed."""


def find_layer_list(base_model: PreTrainedModel) -> tuple[nn.Module, str] | None:
    """Return (module that holds the list of layers, the list's name), None for an unsupported architecture."""
    kind, families = base_model.config.model_type, ("bert", "roberta", "xlm-roberta", "camembert", "electra")
    if kind in families and not hasattr(base_model, "embeddings_project"):
        return base_model.encoder, "layer"
    return (base_model, "layers") if kind == "modernbert" else None


@contextmanager
def replace_module(parent: nn.Module, name: str, module: nn.Module) -> Iterator[None]:
    """Replace the child `name` of `parent` by `module` temporarily."""
    original = parent._modules[name]
    parent._modules[name] = module
    try:
        yield
    finally:
        parent._modules[name] = original


def hash_inputs(inputs: dict[str, np.ndarray]) -> bytes:
    """Hash all that the encoder reads of a text: its unpadded fields, int64 (length,) each."""
    return hashlib.blake2b(b"".join(inputs[name].tobytes() for name in sorted(inputs)), digest_size=16).digest()


class FrozenLayerCache:
    """Cache of the texts' states below `boundary`, the number of frozen lowest layers.

    States are (length, width) in the precision of training. The first `memory_mb` of them are kept in memory, the
    others in a mapped file in `folder`. Models of an unsupported architecture are left unchanged.
    """

    def __init__(self, model: PreTrainedModel, splits: list[TextDataset], folder: Path, memory_mb: int):
        self.base_model, self.splits = model.base_model, splits
        self.folder, self.memory_bytes = folder, memory_mb * 2**20
        self.layer_list, self.input_names = find_layer_list(self.base_model), set(splits[0].fields)
        self.original_forward, self.state_buffers, self.boundary = self.base_model.forward, None, 0
        self.groups, self.key_to_group, self.key_to_span = [], {}, {}
        self.group_versions: dict[int, tuple[int, bytes]] = {}  # group -> (boundary, hash of the weights below it)
        self.weight_hashes: dict[int, tuple[list[int], bytes]] = {}  # boundary -> (versions of the weights, their hash)

    def set_boundary(self, boundary: int) -> None:
        """Cache the states of this many frozen lowest layers from now on; 0: none."""
        if self.layer_list and "attention_mask" in self.input_names and boundary != self.boundary:
            if boundary < self.boundary:
                self.group_versions = {}
            self.boundary = boundary
            if boundary > 0 and not self.groups:
                self.index_texts()
                self.base_model.forward = self.cached_forward

    def index_texts(self) -> None:
        """Assign each text to a group and to a span of the buffers."""
        end = 0
        for texts in self.splits:
            order = np.argsort(texts.lengths, kind="stable")
            for indices in np.array_split(order, -(-len(order) // GROUP_SIZE)):
                self.groups.append((texts, indices))
                for index in indices:
                    key = self.text_key(texts, index)
                    if key not in self.key_to_group:
                        self.key_to_group[key] = len(self.groups) - 1
                        self.key_to_span[key] = end, end + len(texts.fields["input_ids"][index])
                        end = self.key_to_span[key][1]
        self.num_tokens = end

    @staticmethod
    def text_key(dataset: TextDataset, index: int) -> bytes:
        """Return `hash_inputs` of a text of a split."""
        return hash_inputs({name: np.array(rows[index], dtype=np.int64) for name, rows in dataset.fields.items()})

    def hash_weights_below(self, boundary: int) -> bytes:
        """Return a hash of the weights below a boundary, recomputed only after they were written to."""
        modules = self.base_model.embeddings, *getattr(*self.layer_list)[:boundary]
        weights = [weight for module in modules for weight in module.parameters()]
        versions = [weight._version for weight in weights]
        if boundary not in self.weight_hashes or self.weight_hashes[boundary][0] != versions:
            digest = hashlib.blake2b(digest_size=16)
            for weight in weights:
                digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
            self.weight_hashes[boundary] = versions, digest.digest()
        return self.weight_hashes[boundary][1]

    def cached_forward(self, input_ids: Tensor | None = None, **inputs):
        """Run the encoder's forward, from the boundary on if all texts are known."""
        all_inputs = {"input_ids": input_ids, **inputs}
        tensors = {name: tensor for name, tensor in all_inputs.items() if isinstance(tensor, Tensor)}
        if self.boundary < 1 or tensors.keys() != self.input_names:
            return self.original_forward(**all_inputs)
        rows = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
        keys = [
            hash_inputs({name: values[row, :length] for name, values in rows.items()})
            for row, length in enumerate(rows["attention_mask"].sum(1))
        ]
        if not all(key in self.key_to_group for key in keys):
            return self.original_forward(**all_inputs)
        version = self.boundary, self.hash_weights_below(self.boundary)
        for group in sorted({self.key_to_group[key] for key in keys}):
            if self.group_versions.get(group) != version:
                self.compute_group(group, input_ids.device)
        with self.resume_from(keys, input_ids, self.boundary):
            return self.original_forward(**all_inputs)

    @contextmanager
    def resume_from(self, keys: list[bytes], input_ids: Tensor, boundary: int) -> Iterator[None]:
        """Start the encoder's forward at the boundary, from the cached states of these texts."""
        cached = [self.state_slice(*self.key_to_span[key]) for key in keys]
        states = torch.zeros(*input_ids.shape, cached[0].shape[-1], dtype=cached[0].dtype)
        for row, state in enumerate(cached):
            states[row, : len(state)] = state
        parent, name = self.layer_list
        with (
            replace_module(self.base_model, "embeddings", ConstantEmbeddings(states.to(input_ids.device))),
            replace_module(parent, name, getattr(parent, name)[boundary:]),
        ):
            yield

    @torch.no_grad()
    def compute_group(self, group: int, device: torch.device) -> None:
        """Compute and store the states of a group's texts, from those of a lower boundary if possible."""
        texts, indices = self.groups[group]
        inputs, outputs = {name: tensor.to(device) for name, tensor in texts.get_inputs(indices).items()}, []
        keys = [self.text_key(texts, index) for index in indices]
        is_owned = [self.key_to_group[key] == group for key in keys]

        def stop(module: nn.Module, args: tuple, states: Tensor | tuple) -> None:
            outputs.append(states if isinstance(states, Tensor) else states[0])
            raise StopForward

        hook = getattr(*self.layer_list)[self.boundary - 1].register_forward_hook(stop)
        start, weights = self.group_versions.get(group, (0, b""))
        # A text that another group owns may already be at a higher boundary.
        if not (all(is_owned) and start and weights == self.hash_weights_below(start)):
            start = 0
        try:
            with self.resume_from(keys, inputs["input_ids"], start) if start else nullcontext():
                self.original_forward(**inputs)
        except StopForward:
            pass
        finally:
            hook.remove()
        for key, owned, states in zip(keys, is_owned, outputs[0].cpu(), strict=True):
            first, end = self.key_to_span[key]
            if owned:
                self.state_slice(first, end, like=states).copy_(states[: end - first])
        self.group_versions[group] = self.boundary, self.hash_weights_below(self.boundary)

    def state_slice(self, start: int, end: int, like: Tensor | None = None) -> Tensor:
        """Return the buffer of a text's states, (length, width); `like` sets width and dtype at first use."""
        if self.state_buffers is None:
            width, dtype, ends = like.shape[-1], like.dtype, [0, *(end for _, end in self.key_to_span.values())]
            in_memory = max(end for end in ends if end * width * like.element_size() <= self.memory_bytes)
            self.state_buffers = [torch.empty(in_memory, width, dtype=dtype)]
            if in_memory < self.num_tokens:
                self.folder.mkdir(parents=True, exist_ok=True)
                size = (self.num_tokens - in_memory) * width
                file, path = tempfile.mkstemp(".bin", "frozen-cache-", self.folder)
                try:
                    # A mapped file that is longer than what the disk holds ends the process when it is written to.
                    if hasattr(os, "posix_fallocate"):
                        os.posix_fallocate(file, 0, size * dtype.itemsize)
                    mapped = torch.from_file(path, shared=True, size=size, dtype=dtype)
                finally:
                    os.close(file)
                    os.unlink(path)  # the mapping lasts until the process ends, however it ends
                self.state_buffers.append(mapped.view(-1, width))
        memory, *file = self.state_buffers
        return memory[start:end] if end <= len(memory) else file[0][start - len(memory) : end - len(memory)]

    def close(self) -> None:
        """Restore the encoder's own forward and free the memory."""
        self.base_model.__dict__.pop("forward", None)
        self.state_buffers, self.groups, self.boundary, self.group_versions, self.weight_hashes = None, [], 0, {}, {}
