"""What frozen lowest layers say of a text, computed once.

While the embeddings and the layers above them up to some boundary are frozen, and so run without dropout, what they give
to the next layer is a constant of each text. `FrozenLayerCache` computes it when a text is first seen, keeps it, and lets the
encoder begin at the boundary; nothing else in training knows. Texts are computed in fixed groups of like length, not in
the batches they happen to be met in: what is kept is the same after a resume and on every process, each of which keeps
what it meets. A boundary that moves down needs states that those above do not tell, so the groups are computed anew; so
they are where the weights beneath turn out to be others, those of the best evaluation or the mean of many steps.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from finetune.dataset import TextDataset

GROUP_SIZE = 32  # texts computed together


class ConstantEmbeddings(nn.Module):
    """In the place of the embeddings: states that are known already."""

    def __init__(self, states: Tensor):
        super().__init__()
        self.states = states

    def forward(self, *_, **__) -> Tensor:
        return self.states


class StopForward(Exception):
    """The boundary: nothing above it is to be computed."""


def find_layer_list(base_model: PreTrainedModel) -> tuple[nn.Module, str] | None:
    """(the module that holds the list of layers, the list's name); None where more than states passes between layers."""
    kind = base_model.config.model_type
    if kind in ("bert", "roberta", "xlm-roberta", "camembert", "electra") and not hasattr(
        base_model, "embeddings_project"
    ):
        return base_model.encoder, "layer"
    return (base_model, "layers") if kind == "modernbert" else None


@contextmanager
def replace_module(parent: nn.Module, name: str, module: nn.Module) -> Iterator[None]:
    """Within it, `module` is what `parent` has under `name`."""
    own = parent._modules[name]
    parent._modules[name] = module
    try:
        yield
    finally:
        parent._modules[name] = own


def hash_inputs(inputs: dict[str, np.ndarray]) -> bytes:
    """A text by all that the encoder reads of it: its unpadded fields, int64 (length,) each."""
    return hashlib.blake2b(b"".join(inputs[name].tobytes() for name in sorted(inputs)), digest_size=16).digest()


class FrozenLayerCache:
    """The states below `boundary`, the number of frozen lowest layers, of the texts of some splits.

    States are (length, width), as training's precision makes them; the first `megabytes` of them are kept in memory,
    the others in a mapped file in `folder`. An architecture that is not known is left as it is.
    """

    def __init__(self, model: PreTrainedModel, splits: list[TextDataset], folder: Path, memory_mb: int):
        self.base_model, self.splits, self.folder, self.memory_bytes = (
            model.base_model,
            splits,
            folder,
            memory_mb * 2**20,
        )
        self.layer_list, self.input_names = find_layer_list(self.base_model), set(splits[0].fields)
        self.original_forward, self.state_buffers, self.boundary = self.base_model.forward, None, 0
        self.groups, self.key_to_group, self.key_to_span = [], {}, {}
        self.group_versions: dict[
            int, tuple[int, bytes]
        ] = {}  # by group: the boundary at which its states are, and `beneath` it
        self.weight_hashes: dict[int, tuple[list[int], bytes]] = {}  # by boundary: as of which writes, and `beneath` it

    def set_boundary(self, boundary: int) -> None:
        """From now on that many lowest layers are frozen and worth keeping; 0 or less: none."""
        if self.layer_list and "attention_mask" in self.input_names and boundary != self.boundary:
            if boundary < self.boundary:
                self.group_versions = {}
            self.boundary = boundary
            if boundary > 0 and not self.groups:
                self.index_texts()
                self.base_model.forward = self.cached_forward

    def index_texts(self) -> None:
        """Give every text a group and a place."""
        end = 0
        for texts in self.splits:
            ordered = np.argsort(texts.lengths, kind="stable")
            for places in np.array_split(ordered, -(-len(ordered) // GROUP_SIZE)):
                self.groups.append((texts, places))
                for place in places:
                    key = self.text_key(texts, place)
                    if key not in self.key_to_group:
                        self.key_to_group[key] = len(self.groups) - 1
                        self.key_to_span[key] = end, end + len(texts.fields["input_ids"][place])
                        end = self.key_to_span[key][1]
        self.num_tokens = end

    @staticmethod
    def text_key(dataset: TextDataset, index: int) -> bytes:
        """`hash_inputs` of a text of a split."""
        return hash_inputs({name: np.array(rows[index], dtype=np.int64) for name, rows in dataset.fields.items()})

    def hash_weights_below(self, boundary: int) -> bytes:
        """The weights below a boundary, by what they are; looked at again once somebody has written to them."""
        weights = [
            weight
            for module in (self.base_model.embeddings, *getattr(*self.layer_list)[:boundary])
            for weight in module.parameters()
        ]
        written = [weight._version for weight in weights]
        if boundary not in self.weight_hashes or self.weight_hashes[boundary][0] != written:
            told = hashlib.blake2b(digest_size=16)
            for weight in weights:
                told.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
            self.weight_hashes[boundary] = written, told.digest()
        return self.weight_hashes[boundary][1]

    def cached_forward(self, input_ids: Tensor | None = None, **inputs):
        """The encoder's forward, from the boundary on if all the texts are known."""
        given = {
            name: tensor for name, tensor in {"input_ids": input_ids, **inputs}.items() if isinstance(tensor, Tensor)
        }
        if self.boundary < 1 or given.keys() != self.input_names:
            return self.original_forward(input_ids=input_ids, **inputs)
        rows = {name: tensor.cpu().numpy() for name, tensor in given.items()}
        lengths = rows["attention_mask"].sum(1)
        keys = [
            hash_inputs({name: values[row, :length] for name, values in rows.items()})
            for row, length in enumerate(lengths)
        ]
        if not all(key in self.key_to_group for key in keys):
            return self.original_forward(input_ids=input_ids, **inputs)
        here = self.boundary, self.hash_weights_below(self.boundary)
        for group in sorted({self.key_to_group[key] for key in keys}):
            if self.group_versions.get(group) != here:
                self.compute_group(group, input_ids.device)
        with self.resume_from(keys, input_ids, self.boundary):
            return self.original_forward(input_ids=input_ids, **inputs)

    @contextmanager
    def resume_from(self, keys: list[bytes], input_ids: Tensor, boundary: int) -> Iterator[None]:
        """Within it, the encoder's forward begins at the boundary with the states kept for these texts."""
        found = [self.state_slice(*self.key_to_span[key]) for key in keys]
        states = torch.zeros(*input_ids.shape, found[0].shape[-1], dtype=found[0].dtype)
        for row, known in enumerate(found):
            states[row, : len(known)] = known
        holder, name = self.layer_list
        with (
            replace_module(self.base_model, "embeddings", ConstantEmbeddings(states.to(input_ids.device))),
            replace_module(holder, name, getattr(holder, name)[boundary:]),
        ):
            yield

    @torch.no_grad()
    def compute_group(self, group: int, device: torch.device) -> None:
        """The states of a group's texts."""
        texts, places = self.groups[group]
        inputs, reached = {name: tensor.to(device) for name, tensor in texts.inputs(places).items()}, []
        keys = [self.text_key(texts, place) for place in places]
        own = [self.key_to_group[key] == group for key in keys]

        def stop(module: nn.Module, given: tuple, states: Tensor | tuple) -> None:
            reached.append(states if isinstance(states, Tensor) else states[0])
            raise StopForward

        hook = getattr(*self.layer_list)[self.boundary - 1].register_forward_hook(stop)
        begun, weights = self.group_versions.get(group, (0, b""))
        if not (
            all(own) and begun and weights == self.hash_weights_below(begun)
        ):  # what stands in two groups may be further along
            begun = 0
        try:
            with self.resume_from(keys, inputs["input_ids"], begun) if begun else nullcontext():
                self.original_forward(**inputs)
        except StopForward:
            pass
        finally:
            hook.remove()
        for key, mine, states in zip(keys, own, reached[0].cpu()):
            start, end = self.key_to_span[key]
            if mine:
                self.state_slice(start, end, like=states).copy_(states[: end - start])
        self.group_versions[group] = self.boundary, self.hash_weights_below(self.boundary)

    def state_slice(self, start: int, end: int, like: Tensor | None = None) -> Tensor:
        """Where the states of a text are kept, (length, width)."""
        if self.state_buffers is None:
            width, ends = like.shape[-1], [0, *(end for _, end in self.key_to_span.values())]
            fitting = max(end for end in ends if end * width * like.element_size() <= self.memory_bytes)
            self.state_buffers = [torch.empty(fitting, width, dtype=like.dtype)]
            if fitting < self.num_tokens:
                self.folder.mkdir(parents=True, exist_ok=True)
                path = self.folder / f"trunk-{os.getpid()}.bin"
                self.state_buffers.append(
                    torch.from_file(
                        str(path), shared=True, size=(self.num_tokens - fitting) * width, dtype=like.dtype
                    ).view(-1, width)
                )
                path.unlink()  # the mapping lives on, and goes with the process however that ends
        memory = len(self.state_buffers[0])
        return (
            self.state_buffers[0][start:end] if end <= memory else self.state_buffers[1][start - memory : end - memory]
        )

    def close(self) -> None:
        """Give the encoder its own forward back, and the memory."""
        self.base_model.__dict__.pop("forward", None)
        self.state_buffers, self.groups, self.boundary, self.group_versions, self.weight_hashes = None, [], 0, {}, {}
