"""Latent vectors of a variational autoencoder (Kingma and Welling 2014): their distribution, and those in use."""

from torch import Tensor

from engine.log import warn_once

ACTIVE_VARIANCE = 0.01  # of the mean of a latent dimension over inputs, from which it is in use (Burda et al. 2016)
MIN_ACTIVE = 2  # fewer are reported


def divergence_from_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the divergence of each dimension from the standard normal distribution, in nats, (inputs, dim)."""
    return (mean.square() + log_variance.exp() - log_variance - 1) / 2


def add_noise(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """Return latent vectors (inputs, dim) for standard normal noise of that shape."""
    return mean + (log_variance / 2).exp() * noise


def count_active(means: Tensor) -> int:
    """Return the number of dimensions that depend on the input. means: of the latent vectors, (inputs, dim)."""
    return int((means.var(0, correction=0) > ACTIVE_VARIANCE).sum())


def report_posterior_collapse(active: int, means: Tensor, advice: str) -> None:
    """Warn once if hardly a latent dimension depends on the input. active: as `count_active` returns."""
    num_inputs, dim = means.shape
    if active < min(MIN_ACTIVE, num_inputs - 1, dim):
        message = f"warning: posterior collapse: {active} of {dim} latent dimensions depend on the input; {advice}"
        warn_once(message, "posterior collapse")
