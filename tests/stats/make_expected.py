"""Makes expected.json: what SciPy and statsmodels say of small examples.

    python3 -m venv venv && venv/bin/pip install scipy statsmodels
    venv/bin/python tests/stats/make_expected.py > tests/stats/expected.json

tests/it/stats_expected.rs holds src/stats to it. Where the packages have no such function, the
figure is found in another way than src/stats does: by solving for it, or by integration.
"""

import json
import math
from fractions import Fraction

import numpy as np
import scipy
import statsmodels
import statsmodels.api as sm
from scipy import integrate, optimize, stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import (
    confint_proportions_2indep,
    proportion_confint,
    proportions_ztest,
)

rng = np.random.default_rng(20261125)


def estimate(values):
    values = np.asarray(values)
    return {"mean": values.mean(), "variance": values.var(ddof=1) / len(values), "count": len(values)}


def distributions():
    cases = []
    for freedom in [1, 1.7, 4, 9.3, 29, 120, 798.4, 1e4, 1e6]:
        for confidence in [0.5, 0.9, 0.95, 0.999]:
            value = stats.t.ppf((1 + confidence) / 2, freedom)
            cases.append({"what": "student_critical", "x": confidence, "freedom": freedom, "value": value})
        for t in [0.0, 0.3, -1.9, 2.6, 6.0, 12.0]:
            value = 2 * stats.t.sf(abs(t), freedom)
            cases.append({"what": "student_two_sided", "x": t, "freedom": freedom, "value": value})
    for freedom in [1, 2, 5, 40]:
        for x in [0.0, 0.5, 3.9, 12.2, 60.0]:
            cases.append({"what": "chi_square_above", "x": x, "freedom": freedom, "value": stats.chi2.sf(x, freedom)})
    for z in [0.0, -0.7, 1.96, 5.0, 9.0]:
        cases.append({"what": "normal_two_sided", "x": z, "freedom": 0, "value": 2 * stats.norm.sf(abs(z))})
    for p in [0.001, 0.2, 0.5, 0.8, 0.975, 0.9995]:
        cases.append({"what": "normal_quantile", "x": p, "freedom": 0, "value": stats.norm.ppf(p)})
    return cases


def fieller(control, other, critical):
    """The ratios at which the t statistic of `other - ratio * control` is the critical one."""

    def beyond(ratio):
        spread = math.sqrt(other["variance"] + ratio**2 * control["variance"])
        return abs(other["mean"] - ratio * control["mean"]) / spread - critical

    middle = other["mean"] / control["mean"]
    far = 1.0
    while beyond(middle - far) < 0 or beyond(middle + far) < 0:
        far *= 2
        if far > 1e9:
            return None
    low = optimize.brentq(beyond, middle - far, middle, xtol=1e-14, rtol=1e-14)
    high = optimize.brentq(beyond, middle, middle + far, xtol=1e-14, rtol=1e-14)
    return [low - 1, high - 1]


def welch():
    cases = []
    samples = [
        (rng.normal(100, 10, 40), rng.normal(104, 25, 25)),
        (rng.lognormal(5, 1, 500), rng.lognormal(5.1, 1.1, 700)),
        (rng.normal(-3, 1, 12), rng.normal(-2.5, 0.1, 300)),
        (rng.normal(0.1, 1, 30), rng.normal(0.4, 1, 30)),
        (rng.integers(1, 6, 90).astype(float), rng.integers(2, 6, 80).astype(float)),
        (np.array([1.0, 2.0]), np.array([4.0, 9.0, 5.0])),
    ]
    for control, other in samples:
        for confidence in [0.95, 0.99]:
            test = stats.ttest_ind(other, control, equal_var=False)
            interval = test.confidence_interval(confidence)
            critical = stats.t.ppf((1 + confidence) / 2, test.df)
            cases.append({
                "control": control.tolist(),
                "other": other.tolist(),
                "confidence": confidence,
                "difference": other.mean() - control.mean(),
                "interval": [interval.low, interval.high],
                "p_value": test.pvalue,
                "relative_interval": fieller(estimate(control), estimate(other), critical),
            })
    return cases


def proportions():
    cases = []
    for control, other in [((15, 100), (25, 110)), ((0, 20), (3, 25)), ((56, 70), (48, 80)), ((10, 10), (20, 20)),
                           ((900, 10000), (1010, 10050)), ((1, 5), (4, 6))]:
        for confidence in [0.95, 0.99]:
            alpha = 1 - confidence
            interval = confint_proportions_2indep(
                other[0], other[1], control[0], control[1], compare="diff", method="newcomb", alpha=alpha)
            pooled = (control[0] + other[0]) / (control[1] + other[1])
            p_value = 1.0 if pooled in (0, 1) else proportions_ztest([other[0], control[0]], [other[1], control[1]])[1]
            cases.append({
                "control": control,
                "other": other,
                "confidence": confidence,
                "wilson": list(proportion_confint(other[0], other[1], alpha=alpha, method="wilson")),
                "interval": list(interval),
                "p_value": p_value,
            })
    return cases


def adjustments():
    cases = []
    for p_values in [[0.01, 0.04, 0.03, 0.005], [0.5], [0.2, 0.2, 0.9, 0.01, 0.04999, 1.0, 1e-9], []]:
        adjust = lambda method: multipletests(p_values, method=method)[1].tolist() if p_values else []
        cases.append({"p_values": p_values, "holm": adjust("holm"), "benjamini_hochberg": adjust("fdr_bh")})
    return cases


def sample_ratios():
    cases = []
    for counts, weights in [([5200, 4800], [0.5, 0.5]), ([5020, 4980], [1, 1]), ([9010, 990], [0.9, 0.1]),
                            ([300, 340, 355], [1, 1, 1]), ([26, 24], [1, 1])]:
        expected = np.array(weights) / sum(weights) * sum(counts)
        test = stats.chisquare(counts, expected)
        cases.append({"counts": counts, "weights": weights, "statistic": test.statistic, "p_value": test.pvalue})
    return cases


def clusters():
    """The mean over entries with standard errors that are robust to clusters, by regression."""
    cases = []
    for units, per_unit, spread in [(30, 10, 3.0), (200, 4, 0.5), (2, 3, 1.0), (50, 1, 2.0)]:
        level = rng.normal(10, spread, units)
        counts = rng.integers(1, 2 * per_unit, units)
        values = [rng.normal(level[unit], 1, count) for unit, count in enumerate(counts)]
        flat = np.concatenate(values)
        groups = np.repeat(np.arange(units), counts)
        fit = sm.OLS(flat, np.ones(len(flat))).fit(cov_type="cluster", cov_kwds={"groups": groups})
        cases.append({
            "units": [unit.tolist() for unit in values],
            "mean": fit.params[0],
            "variance": fit.cov_params()[0][0],
        })
    return cases


def sequences():
    """The z at which the mixture of likelihood ratios is 1 / alpha, by integration over the prior."""
    log = -2 * math.log(0.05)
    rho = math.sqrt((log + math.log(log) + 1) / 10_000)
    cases = []
    for count in [100, 1000, 10_000, 200_000]:
        for alpha in [0.1, 0.05, 0.01]:

            def mixture(z):
                total = z * math.sqrt(count)
                # The integrand's peak and width, so that the integration finds it.
                width = 1 / math.sqrt(count + 1 / rho**2)
                peak = total * width**2
                density = lambda x: math.exp(x * total - x * x * count / 2) * stats.norm.pdf(x, 0, rho)
                return integrate.quad(density, peak - 12 * width, peak + 12 * width, epsabs=0, epsrel=1e-11)[0]

            z = optimize.brentq(lambda z: mixture(z) - 1 / alpha, 0.5, 12, xtol=1e-12)
            cases.append({"count": count, "alpha": alpha, "z": z})
    return cases


def powers():
    cases = []
    for effect, deviation, ratio, alpha, power in [(1.0, 10.0, 1.0, 0.05, 0.8), (0.3, 2.0, 0.5, 0.01, 0.9),
                                                   (5.0, 40.0, 3.0, 0.05, 0.8)]:
        needed = NormalIndPower().solve_power(
            effect / deviation, alpha=alpha, power=power, ratio=ratio, alternative="two-sided")
        control, other = 100, int(100 * ratio)
        cases.append({
            "difference": effect,
            "variance": deviation**2 * (1 / control + 1 / other),
            "count": control + other,
            "alpha": alpha,
            "power": power,
            "needed": needed * (1 + ratio),
        })
    return cases


def moments():
    """Mean and variance in fractions, rounded once; quantiles as NumPy's `lower`. As texts, since
    not each reader of JSON rounds to the nearest double."""
    cases = []
    for values in [rng.lognormal(3, 2, 300), rng.normal(0, 1e-9, 50) + 1e6, rng.integers(0, 100, 64).astype(float),
                   np.array([1e200, 1e-200, -3.5, 7e100]), -rng.exponential(5, 200)]:
        exact = [Fraction(value) for value in values.tolist()]
        count = len(exact)
        mean = sum(exact) / count
        variance = sum((value - mean) ** 2 for value in exact) / (count - 1)
        try:
            variance = float(variance)
        except OverflowError:
            variance = None
        cases.append({
            "values": [repr(value) for value in values.tolist()],
            "sum": repr(float(sum(exact))),
            "mean": repr(float(mean)),
            "variance": variance and repr(variance),
            "quantiles": {str(q): np.quantile(values, q, method="lower") for q in [0.01, 0.5, 0.9, 0.99]},
        })
    return cases


def plain(value):
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value.item() if isinstance(value, np.generic) else value


expected = {
    "made_with": f"scipy {scipy.__version__}, statsmodels {statsmodels.__version__}, numpy {np.__version__}",
    "distributions": distributions(),
    "welch": welch(),
    "proportions": proportions(),
    "adjustments": adjustments(),
    "sample_ratios": sample_ratios(),
    "clusters": clusters(),
    "sequences": sequences(),
    "powers": powers(),
    "moments": moments(),
}
print("{")
print(",\n".join(f"{json.dumps(key)}: {json.dumps(plain(value), allow_nan=False)}" for key, value in expected.items()))
print("}")
