"""Gradient projections of GEM and A-GEM. Rows are replicas and do not interact."""

import numpy as np
import scipy

from sharc_core.common.deferred import torch
from sharc_core.common.flops import FlopCount

# Added to the diagonal of the Gram matrix of *unit* reference gradients, whose diagonal is 1. It keeps the QP
# strictly convex when references are parallel: Cholesky in float64 breaks down at about k * 1e-16. In
# return the step's product with a unit reference may fall below zero by RIDGE times the reference's dual
# variable. Without a margin that is at most sqrt(RIDGE) = 1e-5 of |g| (the solution is no worse than v = 0),
# and of the order of RIDGE |g| unless references almost oppose each other.
RIDGE = 1e-10


def project_one(gradient: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Remove the component along `reference` where it conflicts: A-GEM, arXiv 1812.00420 eq. 11.

    gradient, reference: (R, P). Rows with g . g_ref >= 0 are returned unchanged.
    """
    product = (gradient * reference).sum(1, keepdim=True)
    norm = reference.square().sum(1, keepdim=True)
    factor = torch.where(norm > 0, (product / norm.clamp_min(1e-30)).clamp_max(0), 0.0)
    return gradient - factor * reference


def solve_dual(gram: np.ndarray, products: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Solve GEM's dual QP, arXiv 1706.08840 eq. 11: min_v 1/2 v' Q v + p' v subject to v >= lower.

    gram: Q, (k, k), positive definite. products: p, (k,). lower: (k,). Returns v (k,).
    With Q = L L' and v = u + lower it is the non-negative least-squares problem
    min_u>=0 | L' u + L^-1 (p + Q lower) |, which SciPy solves exactly with active sets.
    """
    factor = np.linalg.cholesky(gram)
    target = np.linalg.solve(factor, products + gram @ lower)
    return scipy.optimize.nnls(factor.T, -target, maxiter=100 * len(gram))[0] + lower


def project_many(
    gradient: torch.Tensor,
    references: torch.Tensor,
    margin: float,
    ridge: float | None = None,
    flops: FlopCount | None = None,
) -> torch.Tensor:
    """Return the nearest gradient that has a non-negative product with every reference: GEM.

    gradient (R, P); references (R, k, P), one per past task; a reference of zeros constrains nothing.
    Replicas without a conflict are returned unchanged; the others become g + G' v, v >= margin, with v the
    solution of the dual QP for G (k, P). The solver works on unit references and a gradient of about unit
    size, so that its precision does not depend on the lengths of gradients; v_i = w_i * scale / |G_i| for
    its solution w.

    ridge: added to the diagonal of G G'. The later form of the authors' code adds 1e-3 (the first added
    nothing and failed on parallel references). The default None departs from it, because the effect of a
    fixed ridge depends on the gradients' lengths. A head on a frozen backbone's features has short gradients;
    once their squared norm nears 1e-3, the ridge outweighs the constraints and most projected steps still
    conflict with the memory.

    flops: counts the products with gradients; those of size k are left out.
    """
    _, past_tasks, size = references.shape
    flops = flops or FlopCount()
    flops.product(past_tasks, size)
    # One product per replica: a batched product rounds differently for five replicas than for one.
    products = torch.stack([past @ now for past, now in zip(references, gradient, strict=True)])
    conflicting = (products < 0).any(1).nonzero().flatten().tolist()
    if not conflicting:
        return gradient
    projected = gradient.clone()
    for r in conflicting:
        flops.product(past_tasks, size, past_tasks + 2, replica=r)  # G G', G g and G' v
        projected[r] = _projected(gradient[r].double(), references[r].double(), margin, ridge)
    return projected


def _projected(
    gradient: torch.Tensor, references: torch.Tensor, margin: float, ridge: float | None
) -> torch.Tensor:
    """Return g + G' v of one replica: gradient (P,), references (k, P), both float64."""
    gram = (references @ references.T).cpu().numpy()
    if ridge is not None:  # the ridge keeps the matrix regular even if a reference is zero
        products = (references @ gradient).cpu().numpy()
        dual = solve_dual(gram + ridge * np.eye(len(gram)), products, np.full(len(gram), margin))
        return gradient + torch.from_numpy(dual).to(references) @ references
    norms = np.sqrt(gram.diagonal())
    used = norms > 0
    norms, gram = norms[used], gram[used][:, used]
    lower = margin * norms
    scale = max(gradient.norm().item(), lower.max())
    products = (references @ gradient).cpu().numpy()[used] / norms / scale
    unit_gram = gram / np.outer(norms, norms) + RIDGE * np.eye(len(gram))
    dual = np.zeros(len(used))
    dual[used] = solve_dual(unit_gram, products, lower / scale) * scale / norms
    return gradient + torch.from_numpy(dual).to(references) @ references
