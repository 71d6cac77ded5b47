"""Least squares for convolutions that are followed by BatchNorm and ReLU.

The question. At P positions of some photos, a dense net's convolution and its BatchNorm make the rows Y (P, O). A
smaller convolution sees other inputs there, X (P, I), since the layers before it are smaller, too. Which weights W
(I, O) and constants b make it most like the dense one?

1. Without ReLU. The ridge regression that minimises |X W + b - Y|^2 + r |W|^2 has one solution for all outputs:
   W = (X'X + r)^-1 X'Y, with a column of ones in X for b, on which there is no ridge. `Regression` keeps the factor of
   X'X + r, so that further targets cost one product and one substitution each.

2. With ReLU. Only max(0, .) of the output reaches the next layer. Where Y <= 0, any output <= 0 is as good. So the
   target moves: T = Y where Y > 0, and elsewhere min(0, X W + b), what is made already. Each round solves for T and
   never raises the convex bound sum over Y > 0 of (XW + b - Y)^2 + sum over Y <= 0 of max(0, XW + b)^2, which lies
   above the error behind the ReLU (`Goal.nearest`, `Regression.towards`; the rounds have Nesterov's momentum).

3. Errors that count. An error e (O) at one position costs e' M e, where M (O, O) says how much it moves the net's
   mask (`compress.sensitivity`). With independent weights for each output M does not matter: the best row is the same.
   It matters as soon as outputs share parameters. With R = M^(1/2), rows are measured as |e R|.

4. Low rank. Of all maps of rank k, the best for made rows Z = X W + b keeps Z's first k principal components in that
   metric: eigenvectors V of R Z'Z R give Z R V V' R^-1 (`principal_directions`). So W = (W R V)(V' R^-1): a 3x3
   convolution to k channels, then a 1x1 convolution. This is reduced-rank regression (Izenman, 1975).

5. Narrowed inputs. X's channels may first go through N (channels, n), a 1x1 convolution, as in a Tucker decomposition
   (Kim et al., arXiv 1511.06530). For fixed N, 4. gives what follows; for a fixed follow-up, N is the solution of one
   linear system. `Narrowing` starts at the inputs that the dense solution uses most and solves for both in turns.

6. Depthwise-separable. Kernels K and pointwise weights P are solved for in turns, too; `models.conv` has the normal
   equations, in which the rows of positions times outputs are never built.

P positions, I inputs, O outputs, N channels of narrowed inputs. Sums over positions and solutions are float64:
neighbouring pixels are so alike that a Gram matrix of float32 sums need not be positive definite.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MIN_RIDGE = 1e-9  # lets channels that repeat each other pass
MAX_UNKNOWNS = 8192  # of one system of equations: half a gigabyte


@dataclass(frozen=True)
class Goal:
    """What should come out of a convolution's BatchNorm (x * scale + shift), and whether a ReLU follows.

    No scale may be 0. `root` is the square root of the metric in which errors count (`compress.sensitivity`); None: all
    outputs alike. It matters only where one parameter serves several outputs.
    """

    target_PO: Tensor
    scale_O: Tensor
    shift_O: Tensor
    relu: bool = True
    root_OO: Tensor | None = None

    def __getitem__(self, outputs: slice) -> "Goal":
        """The same for some of the outputs, whose errors count alike."""
        return Goal(self.target_PO[:, outputs], self.scale_O[outputs], self.shift_O[outputs], self.relu)

    def error(self, made_PO: Tensor) -> Tensor:
        """What it costs to make that instead (and behind ReLU), the squares' mean over positions."""
        return self.weighted(self.passed_on(made_PO) - self.passed_on(self.target_PO)).square().sum(1).mean()

    def passed_on(self, rows_PO: Tensor) -> Tensor:
        """What of the rows gets to the next layer."""
        return rows_PO.relu() if self.relu else rows_PO

    def weighted(self, rows_PO: Tensor) -> Tensor:
        """Rows as long as they count, if they are errors."""
        return rows_PO if self.root_OO is None else rows_PO @ self.root_OO.to(rows_PO.dtype)

    def unweighted(self, rows_PO: Tensor) -> Tensor:
        """Rows whose lengths were as they count, as they were before."""
        return rows_PO if self.root_OO is None else torch.linalg.solve(self.root_OO, rows_PO, left=False)

    def nearest(self, made_PO: Tensor) -> Tensor:
        """The target nearest to what is made: below zero, where ReLU makes all alike, any value is as good."""
        return torch.where(self.target_PO > 0, self.target_PO, made_PO.clamp(max=0)) if self.relu else self.target_PO

    def before_batchnorm(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (I, O) and bias (O) of the convolution from those that aim behind its BatchNorm (I + 1, O)."""
        scale = self.scale_O.double()
        return coefficients[:-1] / scale, (coefficients[-1] - self.shift_O) / scale


class Regression:
    """Ridge regression of any number of targets on the same rows (P, I) and a constant.

    `ridge` is relative to the mean square of the inputs; the constant goes free.
    """

    def __init__(self, rows_PI: Tensor, ridge: float):
        self.rows = torch.cat((rows_PI, rows_PI.new_ones(len(rows_PI), 1)), 1)
        self.gram = product(self.rows, self.rows)
        self.gram.diagonal()[:-1] += max(ridge, MIN_RIDGE) * self.gram.diagonal()[:-1].mean() + 1e-9
        self.factor = torch.linalg.cholesky(self.gram)

    def solve(self, target_PO: Tensor) -> Tensor:
        """Coefficients (I + 1, O), the constant's last."""
        return torch.cholesky_solve(product(self.rows, target_PO), self.factor)

    def predict(self, coefficients: Tensor) -> Tensor:
        return self.rows @ coefficients.float()

    def towards(self, goal: Goal, rounds: int) -> tuple[Tensor, Tensor]:
        """Coefficients for a goal, and what they make of the rows.

        Each round aims at the goal's nearest target. That minimises a convex bound of the error behind the ReLU: in
        full where the target is positive, and elsewhere what rises above zero. With momentum, as such steps are small.
        """
        coefficients = previous = self.solve(goal.target_PO)
        for done in range(rounds if goal.relu else 0):
            ahead = coefficients + done / (done + 3) * (coefficients - previous)
            previous, coefficients = coefficients, self.solve(goal.nearest(self.predict(ahead)))
        return coefficients, self.predict(coefficients)


def product(a_PI: Tensor, b_PO: Tensor) -> Tensor:
    """The transpose of `a` times `b`, in float64."""
    return sum(a.double().T @ b.double() for a, b in zip(a_PI.split(8192), b_PO.split(8192), strict=True))


def principal_directions(rows_PO: Tensor, root_OO: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The mean (O) of rows, and what takes the principal components (O, O) of their spread and what puts them back.

    Columns, the widest component's last, float64: (rows - mean) @ taking[:, -r:] @ putting[:, -r:].T is the nearest of
    rank r, in the metric whose square root is given.
    """
    mean_O = rows_PO.mean(0)
    spread_PO = rows_PO - mean_O
    gram_OO = product(spread_PO, spread_PO)
    if root_OO is None:
        directions_OO = torch.linalg.eigh(gram_OO)[1]
        return mean_O, directions_OO, directions_OO
    directions_OO = torch.linalg.eigh(root_OO @ gram_OO @ root_OO)[1]
    return mean_O, root_OO @ directions_OO, torch.linalg.solve(root_OO, directions_OO)


class Narrowing:
    """A 1x1 convolution to fewer channels (I, N) before a 3x3 one (9, N, O), for the rows (P, 9 * I) of a regression.

    Both by means over the positions alone, in which targets are weighted as their errors count.
    """

    def __init__(self, regression: Regression, goal: Goal, target_PO: Tensor):
        count = regression.gram[-1, -1]
        mean_C = regression.gram[-1, :-1] / count
        gram = regression.gram[:-1, :-1] / count - torch.outer(mean_C, mean_C)
        cross = goal.weighted(product(regression.rows[:, :-1], target_PO - target_PO.mean(0)) / count)
        inputs = len(gram) // 9
        self.gram_9I9I, self.cross_9IO = gram.reshape(9, inputs, 9, inputs), cross.reshape(9, inputs, -1)
        self.spread_II = sum((self.gram_9I9I[k, :, k] for k in range(9)), torch.zeros(())) / 9

    def directions(self) -> Tensor:
        """Of the inputs (I, I), what the best dense convolution uses most last, each tap looked at by itself."""
        best_9IO = self.behind(torch.eye(len(self.spread_II), dtype=torch.float64))
        values, vectors = torch.linalg.eigh(self.spread_II)
        deviation = values.clamp(min=1e-9 * values.max()).sqrt()
        root, inverse = (vectors * deviation) @ vectors.T, (vectors / deviation) @ vectors.T
        used = torch.einsum("kio,kjo->ij", best_9IO, best_9IO)
        return inverse @ torch.linalg.eigh(root @ used @ root)[1]

    def behind(self, narrow_IN: Tensor, rank: int | None = None) -> Tensor:
        """The best 3x3 convolution of inputs so narrowed (9, N, O), of that rank in its outputs."""
        channels = narrow_IN.shape[1]
        gram = torch.einsum("kilj,in,jm->knlm", self.gram_9I9I, narrow_IN, narrow_IN).reshape(9 * channels, -1)
        gram.diagonal().add_(MIN_RIDGE * gram.diagonal().mean())
        cross = torch.einsum("kio,in->kno", self.cross_9IO, narrow_IN).reshape(9 * channels, -1)
        best = torch.cholesky_solve(cross, torch.linalg.cholesky(gram))
        if rank is not None:
            directions = torch.linalg.eigh(cross.T @ best)[1][:, -rank:]
            best = best @ directions @ directions.T
        return best.reshape(9, channels, -1)

    def before(self, behind_9NO: Tensor) -> Tensor:
        """The best narrowing (I, N) for what follows it."""
        inputs, channels = len(self.spread_II), behind_9NO.shape[1]
        taps = torch.einsum("kno,lmo->klnm", behind_9NO, behind_9NO)
        gram = torch.einsum("kilj,klnm->injm", self.gram_9I9I, taps).reshape(inputs * channels, -1)
        gram.diagonal().add_(1e-6 * gram.diagonal().mean())
        cross = torch.einsum("kio,kno->in", self.cross_9IO, behind_9NO).reshape(-1, 1)
        return torch.cholesky_solve(cross, torch.linalg.cholesky(gram)).reshape(inputs, channels)

    def solve(self, channels: int, rank: int, turns: int = 3) -> Tensor:
        """A narrowing (I, N) for a convolution of that rank, with variance 1 in each channel.

        Both are solved for in turns, but for I * N of more than 8,192: there it stays with `directions`.
        """
        narrow_IN = self.directions()[:, -channels:]
        solvable = narrow_IN.numel() <= MAX_UNKNOWNS and bool(self.cross_9IO.any())  # not of outputs that are constant
        for _ in range(turns if solvable else 0):
            narrow_IN = self.before(self.behind(narrow_IN, rank))
        variance_N = ((narrow_IN.T @ self.spread_II) * narrow_IN.T).sum(1)
        return narrow_IN / variance_N.clamp(min=1e-12 * variance_N.max()).sqrt()
