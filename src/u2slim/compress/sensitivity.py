"""How much an error in each layer's output changes what the net says: the metric in which a stand-in's errors count."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from u2slim.models.hooks import outputs_of

# Logits are looked at through a softened sigmoid, so that confident pixels count, too, though less than undecided ones.
TEMPERATURE = 4.0


@torch.enable_grad()
def metrics(
    net: nn.Module, layers: Mapping[str, nn.Module], input_N3HW: Tensor, seed: int = 0, draws: int = 2
) -> dict[str, Tensor]:
    """Of each layer with C output channels a matrix (C, C), float64, symmetric, positive definite.

    For small errors e (C) at the places of the layer's map, each independent of the others, the mean of e^T M e over
    the places is the mean over pixels of the squared change of the net's first output, weighted by the slope of its
    softened sigmoid (softmax, if there are classes): a Gauss-Newton approximation. It is estimated from the gradients
    of those logits times random signs. What is done in place behind a layer, such as ReLU, counts as part of it.

    Args:
        input_N3HW: normalised photos, of which four go through the net at a time, fewer if they are large.
        draws: of signs for each photo.
    """
    generator = torch.Generator().manual_seed(seed)
    sums: dict[str, Tensor] = {}
    run = min(4, max(1, 4 * 320 * 320 // input_N3HW[0, 0].numel()))
    for input_B3HW in input_N3HW.split(run):
        with outputs_of(layers.values()) as outputs:
            logits_BCHW = net(input_B3HW.clone().requires_grad_())[0]
        weight_BCHW = _slope(logits_BCHW.detach() / TEMPERATURE).sqrt()
        for draw in range(draws):
            signs_BCHW = 2.0 * torch.randint(0, 2, logits_BCHW.shape, generator=generator) - 1
            gradients = torch.autograd.grad(
                (logits_BCHW * weight_BCHW * signs_BCHW).sum(),
                [outputs[layer] for layer in layers.values()],
                retain_graph=draw < draws - 1,
                materialize_grads=True,
            )
            for name, gradient_BCHW in zip(layers, gradients, strict=True):
                rows_PC = gradient_BCHW.permute(0, 2, 3, 1).flatten(0, 2).double()
                sums[name] = sums.get(name, 0) + rows_PC.T @ rows_PC / logits_BCHW[0, 0].numel()
    return {name: _definite(total / (draws * len(input_N3HW))) for name, total in sums.items()}


def square_root(metric_CC: Tensor) -> Tensor:
    """The symmetric matrix whose square it is: errors times that are as long as they count."""
    values, vectors = torch.linalg.eigh(metric_CC)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def _slope(logits_BCHW: Tensor) -> Tensor:
    chance = logits_BCHW.sigmoid() if logits_BCHW.shape[1] == 1 else logits_BCHW.softmax(1)
    return chance * (1 - chance)


def _definite(metric_CC: Tensor) -> Tensor:
    """With a little for each channel: one that the photos never used may matter for others."""
    mean = float(metric_CC.diagonal().mean()) or 1.0  # 0: a layer without a way to the first output, as of a guide
    return metric_CC + 1e-3 * mean * torch.eye(len(metric_CC), dtype=metric_CC.dtype)
