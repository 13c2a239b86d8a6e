"""What is measured while pretraining: the masked-token loss on held-out rows, the same whatever is being trained."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from data.batches import generator
from data.shards import Shards
from engine.loop import share
from pretrain.encoder import Encoder
from pretrain.objectives import mlm

FIXED_SEED = 20_181_011


class HeldOut:
    """`count` held-out rows with 15 % of their tokens hidden, the same ones for every run, seed and training rate."""

    def __init__(self, shards: Shards, count: int, accelerator: Accelerator, batch_size: int = 64):
        config = mlm.Config(mask_rate=mlm.EVALUATION_RATE)
        rows = range(0, len(shards), max(1, len(shards) // count))[:count]
        own = share(list(rows), accelerator)
        self.accelerator = accelerator
        self.batches = [mlm.collate(config, shards, own[at:at + batch_size],
                                    [generator(FIXED_SEED, 0, row) for row in own[at:at + batch_size]])
                        for at in range(0, len(own), batch_size)]

    @torch.no_grad()
    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """{"loss": nats per hidden token, "accuracy": share of them ranked first}."""
        totals = torch.zeros(3, dtype=torch.float64, device=self.accelerator.device)
        for batch in self.batches:
            inputs = {name: tensor.to(self.accelerator.device) for name, tensor in batch.inputs.items()}
            targets = inputs.pop("targets")
            # Its batches have another shape than training's: compiling for them would take longer than they do.
            with self.accelerator.autocast(), torch.compiler.set_stance("force_eager"):
                logits = encoder.vocabulary_logits(**inputs).float()
            right = (logits.argmax(-1) == targets).sum()
            loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
            totals += torch.stack([loss.double(), right.double(), right.new_tensor(len(targets)).double()])
        loss, right, count = self.accelerator.reduce(totals, "sum").tolist()
        return {"loss": loss / count, "accuracy": right / count}
