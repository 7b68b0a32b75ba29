"""Matrix factorization of implicit feedback by the library `implicit`: iALS and BPR.

A user's vector is computed from the history, with the item vectors fixed. Users outside of the training data are
therefore scored as well, and a longer history counts.
"""

from typing import Self

import numpy as np
import torch
from implicit.cpu.als import AlternatingLeastSquares  # codespell:ignore als
from implicit.cpu.bpr import BayesianPersonalizedRanking
from scipy import sparse
from threadpoolctl import threadpool_limits
from torch.nn import functional as F

from llmrec.recommenders.bags import distinct_bags
from llmrec.recommenders.protocol import Histories

BPR_STEPS = 30  # gradient steps of a user's vector
BPR_NEGATIVES = 100  # items that the positives of a batch of users are compared with


class IALS:
    """Implicit alternating least squares (Hu, Koren & Volinsky, ICDM 2008).

    Args:
        factors: length of the vectors.
        regularization: L2 regularization of the vectors.
        alpha: weight of a click beside the weight 1 of a missing one.
        iterations: number of alternations.
        seed: seed of the initial vectors.
    """

    def __init__(
        self, factors: int = 64, regularization: float = 0.1, alpha: float = 10.0, iterations: int = 15, seed: int = 0
    ) -> None:
        with _one_blas_thread():
            self.model = AlternatingLeastSquares(
                factors=factors,
                regularization=regularization,
                alpha=alpha,
                iterations=iterations,
                random_state=seed,
                num_threads=torch.get_num_threads(),
            )

    def fit(self, train_histories: Histories, num_items: int) -> Self:
        """Computes the item vectors from training histories."""
        with _one_blas_thread():
            self.model.fit(_matrix(train_histories, num_items), show_progress=False)
        return self

    def scores(self, histories: Histories) -> np.ndarray:
        """Scores of all items after each of B histories, float32 [B, N]."""
        items = self.model.item_factors
        users = self.model.recalculate_user(np.arange(len(histories)), _matrix(histories, len(items)))
        return users @ items.T


class BPR:
    """Matrix factorization for pairwise ranking (Rendle et al., UAI 2009).

    The vector of a history minimizes the BPR loss against a seeded sample of items, by `BPR_STEPS` steps of Adam.

    Args:
        factors: length of the vectors.
        regularization: L2 regularization of the vectors.
        learning_rate: step size of stochastic gradient descent.
        iterations: number of passes over the clicks.
        seed: seed of the initial vectors and of the sampled items.
    """

    def __init__(
        self,
        factors: int = 64,
        regularization: float = 0.01,
        learning_rate: float = 0.05,
        iterations: int = 100,
        seed: int = 0,
    ) -> None:
        self.regularization = regularization
        self.seed = seed
        self.model = BayesianPersonalizedRanking(
            factors=factors,
            regularization=regularization,
            learning_rate=learning_rate,
            iterations=iterations,
            random_state=seed,
            num_threads=1,
        )

    def fit(self, train_histories: Histories, num_items: int) -> Self:
        """Computes the item vectors and biases from training histories."""
        self.model.fit(_matrix(train_histories, num_items), show_progress=False)
        vectors = torch.from_numpy(self.model.item_factors)
        self.items = vectors[:, :-1]
        self.bias = vectors[:, -1]
        return self

    def scores(self, histories: Histories) -> np.ndarray:
        """Scores of all items after each of B histories, float32 [B, N]; the biases alone if a history is empty."""
        seen = torch.from_numpy(distinct_bags(histories, len(self.bias)).toarray())
        weights = seen / seen.sum(1, keepdim=True).clamp(min=1)
        draw = torch.Generator().manual_seed(self.seed)
        sample = torch.randperm(len(self.bias), generator=draw)[:BPR_NEGATIVES]
        users = (weights @ self.items).requires_grad_()
        optimizer = torch.optim.Adam([users], lr=0.1)
        rows, items = seen.nonzero(as_tuple=True)
        for _ in range(BPR_STEPS):
            positive = (users[rows] * self.items[items]).sum(1) + self.bias[items]
            negative = (users @ self.items[sample].T + self.bias[sample])[rows]
            losses = F.softplus(negative - positive[:, None]).mean(1) * weights[rows, items]
            optimizer.zero_grad()
            (losses.sum() + self.regularization * users.square().sum()).backward()
            optimizer.step()
        return (users.detach() @ self.items.T + self.bias).numpy()


def _one_blas_thread() -> threadpool_limits:
    """Inside the `with` block BLAS has one thread. `implicit` has its own and warns if BLAS adds others."""
    return threadpool_limits(1, "blas")


def _matrix(histories: Histories, num_items: int) -> sparse.csr_matrix:
    """`implicit` takes SciPy's matrices, not its arrays."""
    return sparse.csr_matrix(distinct_bags(histories, num_items))
