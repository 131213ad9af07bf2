"""Results for other tools: a fit as lmfit holds one, for its reports, plots and confidence intervals.

Promises: the values are those of the fit, nothing is fitted again; lmfit is imported only when asked for. Does not
promise that lmfit's standard errors are good intervals: they assume independent noise and a curve that is nearly
linear in its parameters, and hold the truth far less often than they say before the curve has bent.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from analysis.curves.curve import R, gradient
from analysis.fits.results import Fit
from scalerl.runlog import UserError

ORDER = ("R0", "A", "B", "C_mid")  # as the law names them


def to_lmfit(fit: Fit) -> Any:
    """Return an ``lmfit.model.ModelResult`` that stands at the curve of `fit`.

    Parameters
    ----------
    fit : Fit
        With values for all four parameters.

    Returns
    -------
    lmfit.model.ModelResult
        With chi-square, information criteria, covariance from J'J, standard errors and correlations; the covariance
        is missing where J'J cannot be inverted. Its `fit`, `conf_interval` and `fit_report` work as usual.

    Raises
    ------
    UserError
        If there is no curve, or it is of another family.

    Examples
    --------
    >>> import analysis as an
    >>> fitted = an.fit(an.read("data/paper/scalerl_8b_bs2048_100k.csv")[0])
    >>> result = fitted.to_lmfit()
    >>> result.params["A"].value == fitted.params["A"].value, result.nvarys
    (True, 4)
    """
    import lmfit

    values = [fit.params[name].value for name in ORDER] if fit.family == "sigmoid" else [None]
    known = [value for value in values if value is not None]
    if len(known) < 4:
        raise UserError(f"{fit.name}: there is no curve of the law R(C) to hand to lmfit")
    model = lmfit.Model(R, independent_vars=["C"])
    params = model.make_params()
    limits = {"R0": (0.0, 1.0), "A": (0.0, 1.0), "B": (0.0, math.inf), "C_mid": (0.0, math.inf)}
    for name, value in zip(ORDER, known, strict=True):
        params[name].set(value=value, min=limits[name][0], max=limits[name][1], vary=not fit.params[name].fixed)
    free = [name for name in ORDER if params[name].vary]
    residual = np.asarray(R(fit.compute, *known)) - fit.pass_rate
    covariance = _covariance(fit, known, free, float(residual @ residual))

    out = lmfit.minimizer.MinimizerResult()
    out.params, out.var_names, out.residual = params, free, residual
    out.init_vals, out.init_values = [params[name].value for name in free], {n: params[n].value for n in free}
    out.method, out.success, out.aborted, out.ier = fit.method, True, False, 1
    out.message, out.lmdif_message = "evaluated at the values of the fit", "not fitted by lmfit"
    out.nfev, out.errorbars, out.covar = 1, covariance is not None, covariance
    out._calculate_statistics()
    if covariance is not None:
        error = np.sqrt(np.diag(covariance))
        for i, name in enumerate(free):
            params[name].stderr = float(error[i])
            params[name].correl = {
                other: float(covariance[i, j] / (error[i] * error[j])) for j, other in enumerate(free) if j != i
            }
    return _as_model_result(lmfit, model, out, fit)


def _as_model_result(lmfit: Any, model: Any, out: Any, fit: Fit) -> Any:
    """Let lmfit fill its result, with our optimum in the place of its minimizer's."""
    result = lmfit.model.ModelResult(
        model, out.params, data=fit.pass_rate, fcn_args=(fit.pass_rate, None), fcn_kws={"C": fit.compute}
    )
    result.minimize = lambda **_: out
    result.fit()
    del result.minimize  # a later fit by the user runs lmfit's own
    return result


def _covariance(fit: Fit, values: list[float], free: list[str], sse: float) -> Any:
    """s^2 (J'J)^-1 of the free parameters; None where it does not exist."""
    dof = fit.n - len(free)
    jacobian = gradient(fit.compute, *values)[:, [ORDER.index(name) for name in free]]
    width = np.linalg.norm(jacobian, axis=0)
    if dof < 1 or not np.all(width > 0.0):
        return None
    scaled = jacobian / width  # the columns differ by many orders of magnitude
    gram = scaled.T @ scaled
    if np.linalg.cond(gram) > 1e14:
        return None
    covariance = np.linalg.inv(gram) / np.outer(width, width) * sse / dof
    return covariance if np.all(np.isfinite(covariance)) and np.all(np.diag(covariance) > 0.0) else None
