"""Least squares for convolutions that are followed by BatchNorm and ReLU.

The question. At P positions of some photos, a dense net's convolution and its BatchNorm make the rows Y (P, O). A
smaller convolution sees other inputs there, X (P, I), since the layers before it are smaller, too. Which weights W
(I, O) and constants b make it most like the dense one?

1. Without ReLU. The ridge regression that minimises |X W + b - Y|^2 + r |W|^2 has one solution for all outputs:
   W = (X'X + r)^-1 X'Y, with a column of ones in X for b, on which there is no ridge. `Regression` keeps the factor of
   X'X + r, so that further targets cost one product and one substitution each. Where W0 is given, the ridge is
   r |W - W0|^2: the dense weights, which are the exact answer where nothing upstream has changed, rather than zero.
   With fewer positions than unknowns, all that no position tells stays dense.

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
   (Kim et al., arXiv 1511.06530). What counts is |X W - X N B|^2 + r |W - N B|^2, in the metric of 3., W being the
   best without N. For fixed N, 4. gives B; for a fixed B, N is the solution of one linear system, found by conjugate
   gradients. `Narrowing` starts at the inputs that W uses most and solves for both in turns. It needs X'X alone.

6. Depthwise-separable. Kernels K and pointwise weights P are solved for in turns, too; `models.conv` has the normal
   equations, in which the rows of positions times outputs are never built.

P positions, I inputs, O outputs, N channels of narrowed inputs. Gram matrices and solutions are float64: neighbouring
pixels are so alike that a Gram matrix of float32 sums need not be positive definite.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

MIN_RIDGE = 1e-9  # lets channels that repeat each other pass
QUICK_RIDGE = 1e-4  # outweighs the rounding of `quick_product`
SPREAD_RIDGE = 1e-4  # of covariances by which weights are rounded and channels joined, relative to their mean diagonal


@dataclass(frozen=True)
class Goal:
    """What should come out of a convolution's BatchNorm (x * scale + shift), and whether a ReLU follows.

    No scale may be 0. `root` is the square root of the metric in which errors count (`compress.sensitivity`); None: all
    outputs alike. It matters only where one parameter serves several outputs. `prior` are the dense convolution's
    coefficients behind its BatchNorm, (9 * I + 1, O), the window's places first: what a ridge shrinks towards.
    """

    target_PO: Tensor
    scale_O: Tensor
    shift_O: Tensor
    relu: bool = True
    root_OO: Tensor | None = None
    prior_CO: Tensor | None = None

    def __getitem__(self, outputs: slice) -> "Goal":
        """The same for some of the outputs, whose errors count alike."""
        return Goal(self.target_PO[:, outputs], self.scale_O[outputs], self.shift_O[outputs], self.relu)

    def at(self, positions: slice) -> "Goal":
        """The same at some of the positions."""
        return replace(self, target_PO=self.target_PO[positions])

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

    `ridge` is relative to the mean square of the inputs; the constant goes free. It shrinks towards `prior` (I + 1, O),
    or towards zero.
    """

    def __init__(self, rows_PI: Tensor, ridge: float, prior_CO: Tensor | None = None):
        self.rows = torch.cat((rows_PI, rows_PI.new_ones(len(rows_PI), 1)), 1)
        self.gram = product(self.rows, self.rows)
        self.pull = max(ridge, MIN_RIDGE) * self.gram.diagonal()[:-1].mean() + 1e-9
        self.gram.diagonal()[:-1] += self.pull
        self.factor = torch.linalg.cholesky(self.gram)
        self.prior_CO = prior_CO
        self.product = quick_product if ridge >= QUICK_RIDGE else product

    def solve(self, target_PO: Tensor) -> Tensor:
        """Coefficients (I + 1, O), the constant's last."""
        right_CO = self.product(self.rows, target_PO)
        if self.prior_CO is not None:
            right_CO[:-1] += self.pull * self.prior_CO[:-1]
        return torch.cholesky_solve(right_CO, self.factor)

    @property
    def spread(self) -> Tensor:
        """The covariance of the inputs (I, I), with a little on its diagonal for what the positions do not tell."""
        count = self.gram[-1, -1]
        mean_I = self.gram[-1, :-1] / count
        covariance_II = self.gram[:-1, :-1] / count - torch.outer(mean_I, mean_I)
        little = SPREAD_RIDGE * (self.gram.diagonal()[:-1].mean() - self.pull)
        covariance_II.diagonal().add_((little - self.pull) / count)
        return covariance_II

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


def quick_product(a_PI: Tensor, b_PO: Tensor) -> Tensor:
    """The same, summed in float32 over a few positions: near enough for right-hand sides, where there is a ridge."""
    return sum((a.T @ b).double() for a, b in zip(a_PI.split(1024), b_PO.split(1024), strict=True))


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


def balanced(first_MI: Tensor, second_MO: Tensor) -> tuple[Tensor, Tensor]:
    """The two factors of a product first.T @ second (I, O) that rounding harms least: short rows, about equally long.

    With the product's singular values d, sqrt(d) U and sqrt(d) V are as short as it allows. A turn by the discrete
    Hartley transform, which is orthogonal, gives each row about an equal part of all of them.
    """
    (q_IM, r_MM), (q_OM, s_MM) = (torch.linalg.qr(factor.T) for factor in (first_MI, second_MO))
    u_MM, d_M, v_MM = torch.linalg.svd(r_MM @ s_MM.T)
    place_M = torch.arange(len(d_M), dtype=d_M.dtype)
    angle_MM = torch.outer(place_M, place_M) * (2 * math.pi / len(d_M))
    turn_MM = (angle_MM.cos() + angle_MM.sin()) * (d_M / len(d_M)).sqrt()
    return turn_MM @ (q_IM @ u_MM).T, turn_MM @ (v_MM @ q_OM.T)


class Narrowing:
    """A 1x1 convolution to fewer channels (I, N) before a 3x3 one (9, N, O), in place of a convolution without.

    Args:
        spread_CC: the covariance of the 3x3 windows (9 * I, 9 * I), with a ridge.
        best_CO: the convolution (9 * I, O), its outputs weighted as their errors count.
    """

    def __init__(self, spread_CC: Tensor, best_CO: Tensor):
        inputs = len(spread_CC) // 9
        self.best_9IO = best_CO.unflatten(0, (9, inputs))
        self.gram_9I9I = spread_CC.reshape(9, inputs, 9, inputs)
        self.cross_9IO = (spread_CC @ best_CO).unflatten(0, (9, inputs))
        self.spread_II = sum((self.gram_9I9I[k, :, k] for k in range(9)), torch.zeros(())) / 9

    def directions(self) -> Tensor:
        """Of the inputs (I, I), what the convolution uses most last, each tap looked at by itself."""
        values, vectors = torch.linalg.eigh(self.spread_II)
        deviation = values.clamp(min=1e-9 * values.max()).sqrt()
        root, inverse = (vectors * deviation) @ vectors.T, (vectors / deviation) @ vectors.T
        used = torch.einsum("kio,kjo->ij", self.best_9IO, self.best_9IO)
        return inverse @ torch.linalg.eigh(root @ used @ root)[1]

    def behind(self, narrow_IN: Tensor, rank: int | None = None) -> Tensor:
        """The best 3x3 convolution of inputs so narrowed (9, N, O), of that rank in its outputs."""
        channels = narrow_IN.shape[1]
        gram = torch.einsum("kiln,im->kmln", self.gram_9I9I @ narrow_IN, narrow_IN).reshape(9 * channels, -1)
        gram.diagonal().add_(MIN_RIDGE * gram.diagonal().mean())
        cross = torch.einsum("kio,in->kno", self.cross_9IO, narrow_IN).reshape(9 * channels, -1)
        best = torch.cholesky_solve(cross, torch.linalg.cholesky(gram))
        if rank is not None:
            directions = torch.linalg.eigh(cross.T @ best)[1][:, -rank:]
            best = best @ directions @ directions.T
        return best.reshape(9, channels, -1)

    def before(self, behind_9NO: Tensor, start_IN: Tensor, steps: int = 30) -> Tensor:
        """A narrowing (I, N) that suits what follows it, better than the one given: by conjugate gradients.

        As if taps did not correlate, its matrix would be the product of two small ones; that is the preconditioner.
        """
        taps = torch.einsum("kno,lmo->klnm", behind_9NO, behind_9NO)
        wanted_IN = torch.einsum("kio,kno->in", self.cross_9IO, behind_9NO)
        factors = [
            torch.linalg.cholesky(matrix + 1e-6 * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype))
            for matrix in (self.spread_II, torch.einsum("kkmn->mn", taps))
        ]

        def applied(narrow_IN: Tensor) -> Tensor:
            return torch.einsum("kiln,klmn->im", self.gram_9I9I @ narrow_IN, taps)

        def preconditioned(residual_IN: Tensor) -> Tensor:
            half = torch.cholesky_solve(residual_IN, factors[0])
            return torch.cholesky_solve(half.T, factors[1]).T

        narrow_IN = start_IN
        residual = wanted_IN - applied(narrow_IN)
        step = ahead = preconditioned(residual)
        size = first = float((residual * ahead).sum())
        for _ in range(steps):
            if not size > 1e-12 * first:
                break
            onward = applied(step)
            length = size / float((step * onward).sum())
            narrow_IN, residual = narrow_IN + length * step, residual - length * onward
            ahead = preconditioned(residual)
            size, before = float((residual * ahead).sum()), size
            step = ahead + size / before * step
        return narrow_IN

    def solve(self, channels: int, rank: int, turns: int = 3) -> Tensor:
        """A narrowing (I, N) for a convolution of that rank, with variance 1 in each channel, solved for in turns."""
        narrow_IN = self.directions()[:, -channels:]
        for _ in range(turns if bool(self.cross_9IO.any()) else 0):  # not of outputs that are constant
            narrow_IN = self.before(self.behind(narrow_IN, rank), narrow_IN)
        variance_N = ((narrow_IN.T @ self.spread_II) * narrow_IN.T).sum(1)
        return narrow_IN / variance_N.clamp(min=1e-12 * variance_N.max()).sqrt()
