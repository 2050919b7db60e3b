"""Gradient projections shared by GEM and A-GEM. Rows are replicas; nothing crosses them."""

import numpy as np
import torch
from scipy.optimize import nnls

RIDGE = 1e-3  # added to the Gram matrix' diagonal, as in the authors' code: keeps the QP strictly convex


def project_one(gradient: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """A-GEM (arXiv 1812.00420 eq. 11): remove the component along `reference` where it conflicts.

    gradient, reference: (R, P). Rows with g . g_ref >= 0 come back unchanged.
    """
    product = (gradient * reference).sum(1, keepdim=True)
    norm = reference.square().sum(1, keepdim=True)
    factor = torch.where(norm > 0, (product / norm.clamp_min(1e-30)).clamp_max(0), 0.0)
    return gradient - factor * reference


def solve_dual(gram: np.ndarray, products: np.ndarray, margin: float) -> np.ndarray:
    """GEM's dual QP (arXiv 1706.08840 eq. 11): min_v 1/2 v' Q v + p' v subject to v >= margin.

    gram: Q = G G' + RIDGE I, (k, k) positive definite. products: p = G g, (k,). Returns v (k,).
    With Q = L L' and v = u + margin it is the non-negative least-squares problem
    min_u>=0 | L' u + L^-1 (p + Q margin) |, which SciPy solves exactly by active sets.
    """
    factor = np.linalg.cholesky(gram)
    target = np.linalg.solve(factor, products + gram.sum(1) * margin)
    return nnls(factor.T, -target)[0] + margin


def project_many(gradient: torch.Tensor, references: torch.Tensor, margin: float) -> torch.Tensor:
    """GEM: the nearest gradient that has a non-negative product with every reference.

    gradient (R, P); references (R, k, P), one per past task. Replicas without a conflict come back
    unchanged; the others become g + G' v.
    """
    # One product per replica: a batched one rounds differently for five replicas than for one.
    products = torch.stack([past @ now for past, now in zip(references, gradient, strict=True)])
    conflicting = (products < 0).any(1).nonzero().flatten().tolist()
    if not conflicting:
        return gradient
    projected = gradient.clone()
    for r in conflicting:
        gram = (references[r] @ references[r].T).double().cpu().numpy()
        dual = solve_dual(gram + RIDGE * np.eye(len(gram)), products[r].double().cpu().numpy(), margin)
        projected[r] += torch.from_numpy(dual).to(references) @ references[r]
    return projected
