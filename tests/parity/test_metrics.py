"""Our numbers against independent implementations, away from bin edges. Where definitions differ: docs/statistics.md."""

import warnings

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from calibrant.metrics import (
    auroc,
    brier,
    brier_decomposition,
    conf_ece,
    cw_ece,
    debiased_ece,
    debiased_l2_ece,
    equal_mass_ece,
    mce,
    nll,
    smooth_ece,
    smooth_ece_at,
)

TIGHT = 1e-6


@pytest.fixture(params=[(400, 4, 1.0), (3000, 4, 2.5), (3000, 5, 0.5), (1000, 2, 1.5)])
def sample(request):
    """Probabilities, answers, confidences, correctness; random doubles never sit on an edge."""
    n, k, sharpen = request.param
    rng = np.random.default_rng(n + k)
    logit = rng.normal(size=(n, k)) * 1.5
    p = np.exp(logit) / np.exp(logit).sum(1, keepdims=True)
    answer = (rng.random((n, 1)) > p.cumsum(1)[:, :-1]).sum(1)
    p = np.exp(sharpen * logit) / np.exp(sharpen * logit).sum(1, keepdims=True)
    return p, answer, p.max(1), (p.argmax(1) == answer).astype(int)


@pytest.mark.parametrize("n_bins", [10, 15])
def test_netcal_ece_and_mce(sample, n_bins):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies warn at import
        metrics = pytest.importorskip("netcal.metrics")
    _, _, c, y = sample
    assert conf_ece(c, y, n_bins) == pytest.approx(metrics.ECE(n_bins).measure(c, y), abs=TIGHT)
    assert mce(c, y, n_bins) == pytest.approx(metrics.MCE(n_bins).measure(c, y), abs=TIGHT)


@pytest.mark.parametrize("n_bins", [10, 15])
def test_torchmetrics_ece_and_mce(sample, n_bins):
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        functional = pytest.importorskip("torchmetrics.functional.classification")
    p, answer, c, y = sample
    k = p.shape[1]
    p32, answer_t = torch.tensor(p, dtype=torch.float64), torch.tensor(answer)
    if (
        k == 2
    ):  # its binary task bins p(class 1), not the confidence, so the multiclass task is used for two options too
        assert p32.shape[1] == 2
    for norm, ours in (("l1", conf_ece), ("max", mce)):
        theirs = functional.multiclass_calibration_error(p32, answer_t, num_classes=k, n_bins=n_bins, norm=norm)
        assert ours(c, y, n_bins) == pytest.approx(float(theirs), abs=TIGHT)


def test_uncertainty_calibration_equal_mass_and_debiased(sample):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        utils = pytest.importorskip("calibration.utils")
    _, _, c, y = sample
    data = list(zip(c, y, strict=True))
    mass = utils.bin(data, utils.get_equal_bins(list(c), 10))
    assert equal_mass_ece(c, y) == pytest.approx(utils.plugin_ce(mass, power=1), abs=TIGHT)
    width = utils.bin(data, [m / 10 for m in range(1, 11)])
    assert conf_ece(c, y) == pytest.approx(utils.plugin_ce(width, power=1), abs=TIGHT)
    assert debiased_l2_ece(c, y) == pytest.approx(utils.unbiased_l2_ce(width), abs=TIGHT)
    full = [part for part in width if len(part) > 1]
    if sum(map(len, full)) == len(c):
        np.random.seed(0)  # noqa: NPY002 (theirs draws from the global state)
        assert debiased_ece(c, y) == pytest.approx(utils.normal_debiased_ce(full, power=1, resamples=2000), abs=2e-3)


def test_uncertainty_calibration_class_wise_matches_ours_for_each_class(sample):
    """Theirs is the root mean over classes of the square; with power 1 and one class at a time it is our class error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        utils = pytest.importorskip("calibration.utils")
    p, answer, _, _ = sample
    errors = []
    for k in range(p.shape[1]):
        data = list(zip(p[:, k], (answer == k).astype(int), strict=True))
        errors.append(utils.plugin_ce(utils.bin(data, [m / 10 for m in range(1, 11)]), power=1))
    assert cw_ece(p, answer) == pytest.approx(np.mean(errors), abs=TIGHT)


def test_relplot_binned_error(sample):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        relplot = pytest.importorskip("relplot")
    _, _, c, y = sample
    assert conf_ece(c, y) == pytest.approx(relplot.metrics.binnedECE(c, y, nbins=10), abs=TIGHT)


def test_relplot_smooth_error_on_its_own_mesh_and_on_a_fine_one(sample, monkeypatch):
    """Within 2e-3 on its 200 points; on 20,001 to 2e-5, away from the ends of [0, 1], where relplot's grid loses mass."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        relplot = pytest.importorskip("relplot")
    _, _, c, y = sample
    c, y = c[c < 0.998], y[c < 0.998]
    assert smooth_ece(c, y).value == pytest.approx(relplot.smECE(c, y), abs=2e-3)
    monkeypatch.setattr(relplot.config, "smECE_mesh_pts", 20_001)
    assert smooth_ece_at(c, y, 0.05) == pytest.approx(relplot.metrics.smECE_sigma(c, y, 0.05), abs=2e-5)


def test_scikit_learn_nll_brier_auroc(sample):
    p, answer, c, y = sample
    labels = list(range(p.shape[1]))
    assert nll(np.log(p), answer) == pytest.approx(log_loss(answer, p, labels=labels), abs=TIGHT)
    assert auroc(c, y) == pytest.approx(roc_auc_score(y, c), abs=TIGHT)
    assert brier_decomposition(c, y).total == pytest.approx(brier_score_loss(y, c), abs=TIGHT)
    one_hot = np.eye(p.shape[1])[answer]
    assert brier(p, answer) == pytest.approx(((p - one_hot) ** 2).sum(1).mean(), abs=TIGHT)


def test_on_edges_libraries_part_and_ours_follows_the_stated_rule():
    """.25 hit, .3 missed twice. Ours: .3 opens [.3, .4): (.75 + 2 (.3)) / 3 = .45. netcal's third edge is
    .30000000000000004, so .3 falls into the bin of .25: |1/3 - .28333| = .05."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metrics = pytest.importorskip("netcal.metrics")
    c, y = np.array([0.25, 0.3, 0.3]), np.array([1, 0, 0])
    assert conf_ece(c, y) == pytest.approx(0.45)
    assert metrics.ECE(10).measure(c, y) == pytest.approx(0.05)
