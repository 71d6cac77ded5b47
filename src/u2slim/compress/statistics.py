"""BatchNorm statistics for nets from files that have none, their BatchNorms being folded into the convolutions."""

import torch
from torch import Tensor, nn

from u2slim.models import Net


@torch.no_grad()
def measure_statistics(net: Net, input_N3HW: Tensor, run: int = 2) -> None:
    """Give BatchNorms that leave everything as it is the statistics of what reaches them.

    With running mean m and variance v, the weight becomes sqrt(v + eps) and the bias m: in evaluation the net stays as
    it was, and in training, where BatchNorm goes by the batch, it acts alike.

    Args:
        net: of which `is_folded` is true; changed in place.
        input_N3HW: normalised photos, of which `run` go through the net at a time.
    """
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    sums = {norm: torch.zeros(2, norm.num_features, dtype=torch.float64) for norm in norms}
    counts = dict.fromkeys(norms, 0)

    def add(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        x_BCHW = inputs[0].double()
        sums[norm] += torch.stack((x_BCHW.sum((0, 2, 3)), x_BCHW.square().sum((0, 2, 3))))
        counts[norm] += x_BCHW[:, 0].numel()

    was_training = net.training
    hooks = [norm.register_forward_pre_hook(add) for norm in norms]
    try:
        for input_B3HW in input_N3HW.split(run):
            net.eval()(input_B3HW)
    finally:
        for hook in hooks:
            hook.remove()
        net.train(was_training)
    for norm in norms:
        assert norm.running_mean is not None and norm.running_var is not None
        mean_C, square_C = sums[norm] / counts[norm]
        norm.running_mean.copy_(mean_C)
        norm.running_var.copy_((square_C - mean_C.square()).clamp(min=0))
        norm.weight.copy_((norm.running_var.double() + norm.eps).sqrt())
        norm.bias.copy_(norm.running_mean)
