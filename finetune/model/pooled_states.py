"""Vectors of inputs, recorded while a head predicts: one pass gives both."""

import torch
from torch import Tensor, nn

from data.modalities import Modality


class PooledStates(nn.Module):
    """A trained head that also returns a vector of each input, by the modality's `pool_states`."""

    def __init__(self, head: nn.Module, modality: Modality):
        super().__init__()
        self.head, self.modality = head, modality

    def predict(self, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return (the head's predictions, vectors, float32 (inputs, width)).

        The width is 0 if the modality makes no vectors, or the model has no hidden states.
        """
        if not self.modality.pools_states:
            predictions = self.head.predict(**inputs)
            return predictions, torch.zeros(len(predictions), 0)
        recorded = []

        def request(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            return args, {**kwargs, "output_hidden_states": True}

        def record(module: nn.Module, args: tuple, output: object) -> None:
            recorded.append(getattr(output, "hidden_states", None))

        hooks = [
            self.head.model.register_forward_pre_hook(request, with_kwargs=True),
            self.head.model.register_forward_hook(record),
        ]
        try:
            predictions = self.head.predict(**inputs)
        finally:
            for hook in hooks:
                hook.remove()
        if not recorded or not recorded[0]:
            return predictions, torch.zeros(len(predictions), 0)
        return predictions, self.modality.pool_states(recorded[0], inputs).float()
