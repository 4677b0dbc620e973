"""BatchNorm that computes in training what it computes in evaluation.

Shapes: B batch, C channels, H W image.
Source: Ioffe 2017, "Batch Renormalization: Towards Reducing Minibatch Dependence in
Batch-Normalized Models", algorithm 1.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import batch_norm

LARGEST_RATIO = 3.0
"""Limit of the ratio of the batch's deviation to the running one; r_max of the paper."""
LARGEST_SHIFT = 5.0
"""Limit of the difference of the means in running deviations; d_max of the paper."""


class BatchRenorm2d(nn.BatchNorm2d):
    """`BatchNorm2d` with the running statistics in training too, and the batch's in gradients.

    Attacks see a network in evaluation mode. With `BatchNorm2d` an update trains another function,
    and at a high learning rate the two part: the update is right on every example that fools the
    network which is evaluated, and nothing is learned of that one. Weights, buffers and evaluation
    mode are those of `BatchNorm2d`. Early running statistics are plain means over the batches so
    far, so that the first batch is normalised as by `BatchNorm2d`.
    """

    def forward(self, input: Float[Tensor, " B C H W"]) -> Float[Tensor, " B C H W"]:
        """Normalised images; in training mode the running statistics move first."""
        running_mean, running_variance = self.running_mean, self.running_var
        batches, momentum = self.num_batches_tracked, self.momentum
        if not self.training or running_mean is None or running_variance is None:
            return super().forward(input)
        if batches is None or momentum is None:
            return super().forward(input)
        with torch.no_grad():
            own_mean, own_variance = self._statistics(input)
            new = torch.clamp(1 / (batches + 1.0), min=momentum).to(running_mean.dtype)
            mean = running_mean.lerp(own_mean, new)
            variance = running_variance.lerp(own_variance, new)
            count = input.numel() // input.shape[1]
            own_variance = own_variance * ((count - 1) / count)
            ratio = ((own_variance + self.eps) / (variance + self.eps)).sqrt()
            shift = (own_mean - mean) / (variance + self.eps).sqrt()
            ratio = ratio.clamp(1 / LARGEST_RATIO, LARGEST_RATIO)
            shift = shift.clamp(-LARGEST_SHIFT, LARGEST_SHIFT)
        weight, bias = self.weight * ratio, self.bias + self.weight * shift
        normalised = batch_norm(input, None, None, weight, bias, training=True, eps=self.eps)
        with torch.no_grad():
            running_mean.copy_(mean)
            running_variance.copy_(variance)
            batches.add_(1)
        return normalised

    def _statistics(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and unbiased variance of each channel.

        By `batch_norm`, which computes them many times faster than `torch.var_mean` does.
        """
        mean, variance = torch.zeros_like(self.weight), torch.ones_like(self.weight)
        weight, bias = self.weight.detach(), self.bias.detach()
        batch_norm(input, mean, variance, weight, bias, training=True, momentum=1.0)
        return mean, variance
