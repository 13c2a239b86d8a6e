"""Linear probe: freeze the encoder and fit the last linear layer exactly.

Logistic regression with C chosen by cross-validation on the training labels, so no validation label is used. It is
copied into the layer: the result is an ordinary model, trained in the time of one forward pass over the texts.
"""

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from transformers import PreTrainedModel

from finetune.model.network import Network, get_last_linear


class LastLayerInputs(nn.Module):
    """A head that predicts the inputs of the model's last linear layer."""

    def __init__(self, network: Network):
        super().__init__()
        self.network, self.model = network, network.model

    def predict(self, **inputs: Tensor) -> Tensor:
        """Return the features, (inputs, width)."""
        return self.network.last_layer_inputs(inputs)[0]


@torch.no_grad()
def copy_to_last_layer(classifier: LogisticRegression, model: PreTrainedModel) -> None:
    """Copy a solution into the last linear layer; the single row of a two-class solution is split over both classes."""
    weight, bias = torch.from_numpy(classifier.coef_), torch.from_numpy(classifier.intercept_)
    if len(weight) == 1:
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    last = get_last_linear(model)
    last.weight.copy_(weight)
    if last.bias is not None:
        last.bias.copy_(bias)
