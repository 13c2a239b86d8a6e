"""What pretraining needs of an encoder, of whatever modality."""

import copy

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


class BaseEncoder(nn.Module):
    """A transformers model in training.

    new_parameters: names of the parameters that were not loaded from `init`. width: of the embeddings. is_causal:
    whether it reads from left to right, and its head predicts the next token.
    """

    is_causal = False

    def __init__(self, model: PreTrainedModel, width: int, new_parameters: frozenset[str] = frozenset()):
        super().__init__()
        self.model, self.width, self.new_parameters = model, width, new_parameters

    def embed(self, num_inputs: int, **inputs: Tensor) -> Tensor:
        """Return the embeddings of a batch's inputs, float32 (num_inputs, width)."""
        raise NotImplementedError

    def hidden_matrices(self) -> set[nn.Parameter]:
        """Return the weights of the linear layers except embeddings and output projection, for Muon."""
        ends = {self.model.get_input_embeddings(), self.model.get_output_embeddings()}
        linear = [module for module in self.model.modules() if isinstance(module, nn.Linear)]
        return {module.weight for module in linear if module not in ends}

    def compile_layers(self) -> None:
        """Compile the model with torch.compile."""
        self.model.forward = torch.compile(self.model.forward)


def copy_uncompiled(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a model without compiled functions, which would run the weights of the original."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        module.__dict__.pop("forward", None)
    return copied
