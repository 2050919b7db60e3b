"""What theory predicts for random patterns in Hopfield networks.

Classical network, Hebbian rule, P patterns of +-1 in N units, N to infinity at a load P / N: the mean-field
equations of Amit, Gutfreund & Sompolinsky 1985 (Physical Review Letters 55, 1530) without noise. In terms of
y, the signal over the deviation of the noise, a retrieved pattern has the share erfc(y) / 2 of wrong units,
at the load 2 load = (erf(y) / y - 2 / sqrt(pi) exp(-y^2))^2. Its largest load is 0.138.

With a share c of the units held at the pattern the same equations hold with the overlap c + (1 - c) erf(y)
and with the susceptibility of the free units alone:
2 load = ((c + (1 - c) erf(y)) / y - (1 - c) 2 / sqrt(pi) exp(-y^2))^2.

Modern network, retrieval of the nearest stored pattern: minimum-distance decoding of a random spherical code.
With Gaussian noise of deviation sigma per entry its rate tends to Shannon's capacity, log P = d / 2
log(1 + 1 / sigma^2), for many dimensions d; for few it is computed here.
"""

import math

import numpy as np
import scipy

GRID = 200  # midpoints of quantiles per variable of the noise


def retrieved(clamped: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return loads, falling, and shares of wrong free units, of states near a pattern.

    clamped: share of the units that are held at the pattern. Without any, the first load is the largest one
    at which such a state exists. With few, states far from the pattern follow beyond that load after a jump;
    they are left out.
    """
    y = np.linspace(0.02, 4, 8000)
    overlap = clamped + (1 - clamped) * scipy.special.erf(y)
    root = overlap / y - (1 - clamped) * 2 / math.sqrt(math.pi) * np.exp(-(y**2))
    loads = root**2 / 2
    rises = np.flatnonzero(np.diff(loads) >= 0)  # there states are unstable
    first = int(rises[-1]) + 1 if len(rises) else 0
    return loads[first:], scipy.special.erfc(y[first:]) / 2


def critical_load() -> float:
    """Return the largest load of the classical network, 0.138."""
    return float(retrieved()[0][0])


def load_at(error: float, clamped: float = 0.0) -> float:
    """Return the load at which a share `error` of the free units is wrong, or the largest one."""
    loads, errors = retrieved(clamped)  # errors fall as well
    return float(loads[0]) if error >= errors[0] else float(np.interp(-error, -errors, loads))


def failures(log_count: float, known: int, noise: float) -> float:
    """Return the probability that another of P random patterns on a sphere is nearer to a noisy cue.

    log_count: log P, above 0. known: dimensions d of the sphere's space, of radius sqrt(d). noise: deviation
    per entry.
    """
    along, across = _noise(known)
    radial = math.sqrt(known) + noise * along
    cosine = radial / np.sqrt(radial**2 + noise**2 * across)
    # a share of the sphere has a larger cosine with the cue than the own pattern has
    cap = scipy.special.betainc((known - 1) / 2, 0.5, 1 - cosine**2) / 2
    cap = np.where(cosine < 0, 1 - cap, cap)
    others = log_count + math.log1p(-math.exp(-log_count))  # log(P - 1)
    # the chance of no nearer pattern is (1 - cap)^(P - 1)
    exponent = others + np.log(-np.log1p(-np.clip(cap, 1e-300, 1 - 1e-15)))
    return float(-np.expm1(-np.exp(np.minimum(exponent, 700))).mean())


def _noise(known: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the noise along the pattern and the squared noise across it, on a grid of equal probability."""
    quantiles = (np.arange(GRID) + 0.5) / GRID
    along = scipy.stats.norm.ppf(quantiles)[:, None]
    return along, scipy.stats.chi2.ppf(quantiles, known - 1)[None]


def log_patterns(known: int, noise: float, level: float = 0.5) -> float:
    """Return log P at which a share `level` of the cues fails."""
    most = 2 * known * shannon(noise) + 20
    return float(scipy.optimize.brentq(lambda log: failures(log, known, noise) - level, 1e-6, most))


def shannon(noise: float) -> float:
    """Return the capacity per known entry in nats, log(1 + 1 / noise^2) / 2."""
    return math.log1p(1 / noise**2) / 2
