"""Smooth calibration error: the residual smoothed by a reflected Gaussian. Shape suffixes: G grid points, ``...`` any
shape.

A reflected Gaussian on [0, 1] is the heat kernel with insulated ends, so smoothing multiplies cosine coefficient k by
``exp(-(pi k sigma)^2 / 2)``: one cosine transform serves every bandwidth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.fft import dct

from calibrant.errors import ConfigError, only_numbers
from calibrant.metrics.profile import Profile, exact_profile, gather

GRID = 1001
HALVINGS = 10
MIN_SIGMA = 1e-3


class SmoothError(NamedTuple):
    """Smooth calibration error and the bandwidth at which it was found."""

    value: float
    sigma: float


def smooth_ece(confidence_N: ArrayLike, correct_N: ArrayLike) -> SmoothError:
    """smECE: ``int |(1/N) sum_i (y_i - c_i) K_sigma(t, c_i)| dt`` at the bandwidth where it equals sigma.

    K is the Gaussian reflected at 0 and 1. ``sigma`` is the least multiple of 2^-10 at or above its own error. No bins,
    hence no jumps; bias: upward but smaller than that of conf-ECE. Source: Blasiok & Nakkiran (ICLR 2024, arXiv
    2309.12236), sec. 3. Integrated by trapezoids on 1,001 points; the authors' package ``relplot`` cuts its kernel at
    half the interval and uses 200 points: agreement to 1e-3.

    >>> e = smooth_ece([0.9] * 100, [1] * 60 + [0] * 40)  # one point: all mass keeps its sign, so exactly |.6 - .9|
    >>> round(e.value, 4), round(e.sigma, 2)
    (0.3, 0.3)
    """
    return smooth_error_of(grid_of(exact_profile(confidence_N, correct_N)))


def smooth_ece_at(confidence_N: ArrayLike, correct_N: ArrayLike, sigma: float) -> float:
    """The smooth error at a bandwidth of one's own, in units of probability.

    Raises
    ------
    ConfigError : a bandwidth that is not positive.
    """
    only_numbers(sigma=sigma)
    if not sigma > 0:
        raise ConfigError(asked="a bandwidth", found=f"{sigma}", todo="give a positive sigma, e.g. 0.05")
    return _error(grid_of(exact_profile(confidence_N, correct_N)).residual_G, sigma)


@dataclass(frozen=True, eq=False)
class Grid:
    """Cosine coefficients of residual and density on the grid, (..., G), each per question."""

    residual_G: np.ndarray
    density_G: np.ndarray


def grid_of(profile: Profile) -> Grid:
    """Residuals ``y - c`` and questions, split linearly between neighbouring grid points, transformed."""
    at = np.minimum((profile.c_G * (GRID - 1)).astype(np.int64), GRID - 2)
    part = profile.c_G * (GRID - 1) - at
    n = profile.n[..., None]

    def split(value_G: np.ndarray) -> np.ndarray:
        return np.asarray((gather(value_G * (1 - part), at, GRID) + gather(value_G * part, at + 1, GRID)) / n)

    residual_G = split(profile.hits_G - profile.n_G * profile.c_G)
    return Grid(_forward(residual_G), _forward(split(profile.n_G)))


def smooth_error_of(grid: Grid) -> SmoothError:
    """The fixed point: least sigma on the grid of 2^-10 at which ``sigma >= error(sigma)``."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        enough = middle >= MIN_SIGMA and middle >= _error(grid.residual_G, middle)
        low, high = (low, middle) if enough else (middle, high)
    return SmoothError(_error(grid.residual_G, high), high)


def smoothed(coefficient_G: np.ndarray, sigma: float) -> np.ndarray:
    """Density on the grid after smoothing, (..., G); its trapezoid integral is what was put in."""
    return np.asarray(dct(coefficient_G * np.exp(-((np.pi * np.arange(GRID) * sigma) ** 2) / 2), type=1, axis=-1) / 2)


def smooth_cells(coefficient_G: np.ndarray, sigma: float) -> np.ndarray:
    """The smoothed residual times the trapezoid weights, (..., G): its 1-norm is the smooth error at ``sigma``."""
    weight = np.full(GRID, 1 / (GRID - 1))
    weight[[0, -1]] /= 2
    return np.asarray(smoothed(coefficient_G, sigma) * weight)


def thinned(cell_G: np.ndarray, sigma: float, least: int = 1) -> tuple[slice, float]:
    """Fewer points of the smoothed residual, which is smooth at the scale of sigma, and the factor that restores its
    1-norm.

    >>> thinned(np.zeros(2001), 0.02)
    (slice(None, None, 5), 4.9900249376558605)
    """
    keep = slice(None, None, max(least, int(sigma * 250)))
    whole, part = float(np.abs(cell_G).sum()), float(np.abs(cell_G[keep]).sum())
    return keep, whole / part if part > 0 else len(cell_G) / len(cell_G[keep])


def _forward(mass_G: np.ndarray) -> np.ndarray:
    """Coefficients a_k of the density ``a_0 + sum a_k cos(pi k t)`` scaled for :func:`smoothed`; ends carry double
    weight.
    """
    doubled = mass_G.copy()
    doubled[..., [0, -1]] *= 2
    return np.asarray(dct(doubled, type=1, axis=-1))


def _error(coefficient_G: np.ndarray, sigma: float) -> float:
    return float(np.abs(smooth_cells(coefficient_G, sigma)).sum())


def reliability_curve(confidence_N: ArrayLike, correct_N: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Smooth reliability curve: confidence t on a grid of 1,001 points, smoothed accuracy at t, density at t, (G,)
    each.

    ``accuracy(t) = t + r(t) / d(t)`` with smoothed residual r and density d; ``nan`` where there is (almost) no
    density. Same source.

    >>> t, accuracy, density = reliability_curve([0.9] * 100, [1] * 60 + [0] * 40)
    >>> round(float(accuracy[900]), 3)
    0.6
    """
    grid = grid_of(exact_profile(confidence_N, correct_N))
    sigma = smooth_error_of(grid).sigma
    t = np.linspace(0, 1, GRID)
    density = smoothed(grid.density_G, sigma)
    residual = smoothed(grid.residual_G, sigma)
    known = density > 1e-6
    accuracy = np.where(known, np.clip(t + residual / np.where(known, density, 1.0), 0.0, 1.0), np.nan)
    return t, accuracy, density
