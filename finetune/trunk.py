"""What frozen lowest layers say of a text, computed once.

While the embeddings and the layers above them up to some boundary are frozen, and so run without dropout, what they give
to the next layer is a constant of each text. `Trunk` computes it when a text is first seen, keeps it, and lets the
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

from finetune.texts import Texts

AT_ONCE = 32  # texts computed together


class Given(nn.Module):
    """In the place of the embeddings: states that are known already."""

    def __init__(self, states: Tensor):
        super().__init__()
        self.states = states

    def forward(self, *_, **__) -> Tensor:
        return self.states


class Reached(Exception):
    """The boundary: nothing above it is to be computed."""


def stack_of(base: PreTrainedModel) -> tuple[nn.Module, str] | None:
    """(the module that holds the list of layers, the list's name); None where more than states passes between layers."""
    kind = base.config.model_type
    if kind in ("bert", "roberta", "xlm-roberta", "camembert", "electra") and not hasattr(base, "embeddings_project"):
        return base.encoder, "layer"
    return (base, "layers") if kind == "modernbert" else None


@contextmanager
def swapped(holder: nn.Module, name: str, module: nn.Module) -> Iterator[None]:
    """Within it, `module` is what `holder` has under `name`."""
    own = holder._modules[name]
    holder._modules[name] = module
    try:
        yield
    finally:
        holder._modules[name] = own


def key_of(row: dict[str, np.ndarray]) -> bytes:
    """A text by all that the encoder reads of it: its unpadded fields, int64 (length,) each."""
    return hashlib.blake2b(b"".join(row[name].tobytes() for name in sorted(row)), digest_size=16).digest()


class Trunk:
    """The states below `boundary`, the number of frozen lowest layers, of the texts of some splits.

    States are (length, width), as training's precision makes them; the first `megabytes` of them are kept in memory,
    the others in a mapped file in `folder`. An architecture that is not known is left as it is.
    """

    def __init__(self, model: PreTrainedModel, splits: list[Texts], folder: Path, megabytes: int):
        self.base, self.splits, self.folder, self.bytes = model.base_model, splits, folder, megabytes * 2**20
        self.stack, self.fields = stack_of(self.base), set(splits[0].fields)
        self.forward, self.kept, self.boundary = self.base.forward, None, 0
        self.groups, self.group_of, self.place_of = [], {}, {}
        self.reached: dict[int, tuple[int, bytes]] = {}  # by group: the boundary at which its states are, and `beneath` it
        self.known: dict[int, tuple[list[int], bytes]] = {}  # by boundary: as of which writes, and `beneath` it

    def begin_at(self, boundary: int) -> None:
        """From now on that many lowest layers are frozen and worth keeping; 0 or less: none."""
        if self.stack and "attention_mask" in self.fields and boundary != self.boundary:
            if boundary < self.boundary:
                self.reached = {}
            self.boundary = boundary
            if boundary > 0 and not self.groups:
                self.number()
                self.base.forward = self.enter

    def number(self) -> None:
        """Give every text a group and a place."""
        end = 0
        for texts in self.splits:
            ordered = np.argsort(texts.lengths, kind="stable")
            for places in np.array_split(ordered, -(-len(ordered) // AT_ONCE)):
                self.groups.append((texts, places))
                for place in places:
                    key = self.key(texts, place)
                    if key not in self.group_of:
                        self.group_of[key] = len(self.groups) - 1
                        self.place_of[key] = end, end + len(texts.fields["input_ids"][place])
                        end = self.place_of[key][1]
        self.tokens = end

    @staticmethod
    def key(texts: Texts, place: int) -> bytes:
        """`key_of` of a text of a split."""
        return key_of({name: np.array(rows[place], dtype=np.int64) for name, rows in texts.fields.items()})

    def beneath(self, boundary: int) -> bytes:
        """The weights below a boundary, by what they are; looked at again once somebody has written to them."""
        weights = [weight for module in (self.base.embeddings, *getattr(*self.stack)[:boundary]) for weight in module.parameters()]
        written = [weight._version for weight in weights]
        if boundary not in self.known or self.known[boundary][0] != written:
            told = hashlib.blake2b(digest_size=16)
            for weight in weights:
                told.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
            self.known[boundary] = written, told.digest()
        return self.known[boundary][1]

    def enter(self, input_ids: Tensor | None = None, **inputs):
        """The encoder's forward, from the boundary on if all the texts are known."""
        given = {name: tensor for name, tensor in {"input_ids": input_ids, **inputs}.items() if isinstance(tensor, Tensor)}
        if self.boundary < 1 or given.keys() != self.fields:
            return self.forward(input_ids=input_ids, **inputs)
        rows = {name: tensor.cpu().numpy() for name, tensor in given.items()}
        lengths = rows["attention_mask"].sum(1)
        keys = [key_of({name: values[row, :length] for name, values in rows.items()}) for row, length in enumerate(lengths)]
        if not all(key in self.group_of for key in keys):
            return self.forward(input_ids=input_ids, **inputs)
        here = self.boundary, self.beneath(self.boundary)
        for group in sorted({self.group_of[key] for key in keys}):
            if self.reached.get(group) != here:
                self.compute(group, input_ids.device)
        with self.begun(keys, input_ids, self.boundary):
            return self.forward(input_ids=input_ids, **inputs)

    @contextmanager
    def begun(self, keys: list[bytes], input_ids: Tensor, boundary: int) -> Iterator[None]:
        """Within it, the encoder's forward begins at the boundary with the states kept for these texts."""
        found = [self.states(*self.place_of[key]) for key in keys]
        states = torch.zeros(*input_ids.shape, found[0].shape[-1], dtype=found[0].dtype)
        for row, known in enumerate(found):
            states[row, :len(known)] = known
        holder, name = self.stack
        with swapped(self.base, "embeddings", Given(states.to(input_ids.device))), \
                swapped(holder, name, getattr(holder, name)[boundary:]):
            yield

    @torch.no_grad()
    def compute(self, group: int, device: torch.device) -> None:
        """The states of a group's texts."""
        texts, places = self.groups[group]
        inputs, reached = {name: tensor.to(device) for name, tensor in texts.inputs(places).items()}, []
        keys = [self.key(texts, place) for place in places]
        own = [self.group_of[key] == group for key in keys]

        def stop(module: nn.Module, given: tuple, states: Tensor | tuple) -> None:
            reached.append(states if isinstance(states, Tensor) else states[0])
            raise Reached

        hook = getattr(*self.stack)[self.boundary - 1].register_forward_hook(stop)
        begun, weights = self.reached.get(group, (0, b""))
        if not (all(own) and begun and weights == self.beneath(begun)):  # what stands in two groups may be further along
            begun = 0
        try:
            with self.begun(keys, inputs["input_ids"], begun) if begun else nullcontext():
                self.forward(**inputs)
        except Reached:
            pass
        finally:
            hook.remove()
        for key, mine, states in zip(keys, own, reached[0].cpu()):
            start, end = self.place_of[key]
            if mine:
                self.states(start, end, like=states).copy_(states[:end - start])
        self.reached[group] = self.boundary, self.beneath(self.boundary)

    def states(self, start: int, end: int, like: Tensor | None = None) -> Tensor:
        """Where the states of a text are kept, (length, width)."""
        if self.kept is None:
            width, ends = like.shape[-1], [0, *(end for _, end in self.place_of.values())]
            fitting = max(end for end in ends if end * width * like.element_size() <= self.bytes)
            self.kept = [torch.empty(fitting, width, dtype=like.dtype)]
            if fitting < self.tokens:
                self.folder.mkdir(parents=True, exist_ok=True)
                path = self.folder / f"trunk-{os.getpid()}.bin"
                self.kept.append(torch.from_file(str(path), shared=True, size=(self.tokens - fitting) * width,
                                                 dtype=like.dtype).view(-1, width))
                path.unlink()  # the mapping lives on, and goes with the process however that ends
        memory = len(self.kept[0])
        return self.kept[0][start:end] if end <= memory else self.kept[1][start - memory:end - memory]

    def close(self) -> None:
        """Give the encoder its own forward back, and the memory."""
        self.base.__dict__.pop("forward", None)
        self.kept, self.groups, self.boundary, self.reached, self.known = None, [], 0, {}, {}
