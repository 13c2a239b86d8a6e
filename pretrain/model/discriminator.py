"""An image encoder with a linear layer that separates images from generated ones (Goodfellow et al. 2014)."""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from pretrain.model.image_encoder import ImageEncoder, normalizes_by_batch


class Discriminator(nn.Module):
    """Scores of normalized images: high for those of the corpus, low for generated ones."""

    def __init__(self, encoder: ImageEncoder):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.width, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores, float32 (images,)."""
        return self.head(self.encoder.embed_images(images))[:, 0].float()

    def compare(self, real: Tensor, generated: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores of real images, of generated ones for the discriminator's loss, and for the generator's.

        Batch normalization has the statistics of both, which would otherwise show which images are which.
        """
        if not normalizes_by_batch(self.encoder):
            return self(real), self(generated.detach()), self.score_detached(generated)
        real_scores, fake_scores = self(torch.cat([real, generated.detach()])).chunk(2)
        return real_scores, fake_scores, self.score_detached(torch.cat([real, generated])).chunk(2)[1]

    def score_detached(self, images: Tensor) -> Tensor:
        """Return scores with a gradient that reaches the images, but not the weights of the discriminator.

        So one backward pass of the sum of both losses gives each network the gradient of its own.
        """
        weights = {name: weight.detach() for name, weight in self.named_parameters()}
        return functional_call(self, weights, (images,))

    def gradient_penalty(self, images: Tensor) -> Tensor:
        """Return (norm of the gradient by each image - 1)², (images,) (WGAN-GP; Gulrajani et al. 2017), in float32."""
        images = images.detach().float().requires_grad_()
        # The fast attention kernels have no second derivative.
        with torch.enable_grad(), torch.autocast(images.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
            gradients = torch.autograd.grad(self(images).sum(), images, create_graph=True)[0]
        return (gradients.flatten(1).norm(dim=1) - 1).square()
