"""Which of two versions fails its users more often: evidence that may be looked at at any time.

Two streams of yes/no outcomes, `bad` or not: those of production and those of a candidate. The test
is the exact one of Turner, Ly and Grünwald 2024, "Generic E-variables for exact sequential k-sample
tests that allow for optional stopping", JSPI 230, https://arxiv.org/abs/2106.02693. Its value e is
a bet against a null hypothesis whose expectation never exceeds 1 while the hypothesis holds, so by
Ville's inequality e > 1/alpha happens with probability alpha at most, whenever and however often
one looks, and whatever the base rate does between blocks.

**Blocks.** Outcomes come in any order and in any proportion. A block is open until it holds at
least one outcome of each stream; then it closes and multiplies e by one factor. Sizes of blocks
depend on the order in which the two streams deliver and never on what they deliver, so that, given
this order, each block has the fixed sizes n_a and n_b of the paper, and the product over blocks is
its e-process. Within an open block e stays as it was.

**One block.** With rates (a, b) of production and candidate estimated from earlier blocks alone
(the paper's plug-in with a Beta prior), and (a0, b0) the rates in the null hypothesis that are
nearest to them, the minimum of n_a KL(a|a0) + n_b KL(b|b0), the factor is

    product over production of p(y; a) / p(y; a0)
    times product over the candidate of p(y; b) / p(y; b0).

For b <= a as the hypothesis both a0 and b0 are the mean of the rates weighted by n_a and n_b (the
paper's theorem 1); for other convex hypotheses, such as b >= a + delta, see Turner and Grünwald
2023, "Exact anytime-valid confidence intervals for contingency tables and beyond", Statistics and
Probability Letters 198, https://arxiv.org/abs/2203.09785. Why the expectation is
at most 1 for each convex hypothesis and all n_a, n_b: it is the product of s_a(t)^n_a and
s_b(t)^n_b with s linear in the true rate; by the inequality of arithmetic and geometric means it
is at most 1 if n_a s_a + n_b s_b <= n_a + n_b, which is the first-order condition of the minimum.
The same argument allows rates that change within a block, as long as both streams see the change.

Where the estimates lie within the hypothesis nothing is bet: the factor is 1.

**Where we differ**: the candidate's prior is centred at production's estimate, not at a constant.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from llama_factory.evaluation.statistics import Estimate

Arm = Literal["production", "candidate"]
PRIOR_BAD, PRIOR_COUNT = 0.5, 5.0
"""Beta prior of production's rate, as outcomes seen before: a rate of 0.1, given up after a few."""
CANDIDATE_PRIOR_COUNT = 10.0
"""How many outcomes at production's rate the candidate is credited with: fewer bet sooner, and
lose more where the two are alike."""
TIGHTEST_AT = 1000
"""Outcomes of both streams at which the confidence sequence is tightest."""
FEWEST_FOR_INTERVAL = 50
"""Outcomes of each stream below which the asymptotic interval means nothing."""
BISECTIONS = 40


@dataclass(frozen=True)
class Stream:
    """Outcomes of one version: how many, and how many of them bad."""

    count: int = 0
    bad: int = 0

    def plus(self, count: int, bad: int) -> "Stream":
        """With more outcomes."""
        return Stream(self.count + count, self.bad + bad)

    @property
    def rate(self) -> float:
        """The fraction that is bad; 0 without outcomes."""
        return self.bad / self.count if self.count else 0.0


@dataclass(frozen=True)
class Hypothesis:
    """A null hypothesis about the difference of the candidate's rate b and production's rate a.

    Attributes:
        margin: where it ends.
        side: 1 for b - a <= margin, -1 for b - a >= margin.
    """

    margin: float
    side: Literal[1, -1]

    def holds(self, a: float, b: float) -> bool:
        """Whether two rates agree with it."""
        return self.side * (b - a - self.margin) <= 0

    def nearest(self, a: float, b: float, sizes: tuple[int, int]) -> tuple[float, float]:
        """The rates on its border for which n_a KL(a|a0) + n_b KL(b|b0) is least."""
        num_a, num_b = sizes
        if self.margin == 0:
            mean = (num_a * a + num_b * b) / (num_a + num_b)
            return mean, mean
        low, high = max(0.0, -self.margin), min(1.0, 1.0 - self.margin)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            slope = num_a * _slope(a, middle) + num_b * _slope(b, middle + self.margin)
            low, high = (middle, high) if slope < 0 else (low, middle)
        return (low + high) / 2, (low + high) / 2 + self.margin


@dataclass(frozen=True)
class EProcess:
    """The evidence against one hypothesis so far; a value that `add` replaces.

    Attributes:
        null: the hypothesis.
        production: outcomes in closed blocks.
        candidate: outcomes in closed blocks.
        open_production: outcomes in the block that is open.
        open_candidate: outcomes in the block that is open.
        log_e: natural logarithm of e after the closed blocks.
    """

    null: Hypothesis
    production: Stream = Stream()
    candidate: Stream = Stream()
    open_production: Stream = Stream()
    open_candidate: Stream = Stream()
    log_e: float = 0.0

    def add(self, arm: Arm, bad: int, count: int = 1) -> "EProcess":
        """After one more outcome of one stream, or after several that came together.

        Args:
            arm: the stream.
            bad: how many of them are bad; True and False for one.
            count: how many they are; none of them may open another block.
        """
        if arm == "production":
            grown = replace(self, open_production=self.open_production.plus(count, int(bad)))
        else:
            grown = replace(self, open_candidate=self.open_candidate.plus(count, int(bad)))
        is_whole = grown.open_production.count and grown.open_candidate.count
        return grown._closed() if is_whole else grown

    def rates(self) -> tuple[float, float]:
        """Production's and the candidate's rate, estimated from the closed blocks."""
        a = (self.production.bad + PRIOR_BAD) / (self.production.count + PRIOR_COUNT)
        prior = CANDIDATE_PRIOR_COUNT
        b = (self.candidate.bad + prior * a) / (self.candidate.count + prior)
        return a, b

    @property
    def seen(self) -> tuple[Stream, Stream]:
        """All outcomes of production and of the candidate, those of the open block included."""
        a, b = self.open_production, self.open_candidate
        return self.production.plus(a.count, a.bad), self.candidate.plus(b.count, b.bad)

    def growth(self) -> float:
        """By how much `log_e` grows with an outcome of the candidate if the estimates are right."""
        a, b = self.rates()
        if self.null.holds(a, b):
            return 0.0
        sizes = max(self.production.count, 1), max(self.candidate.count, 1)
        a0, b0 = self.null.nearest(a, b, sizes)
        return (sizes[0] * _divergence(a, a0) + sizes[1] * _divergence(b, b0)) / sizes[1]

    def outcomes_needed(self, alpha: float) -> int | None:
        """How many more outcomes of the candidate e > 1/alpha can be expected after.

        Returns:
            None where the rates seen so far speak for the hypothesis: no number would do.
        """
        missing = math.log(1 / alpha) - self.log_e
        if missing < 0:
            return 0
        growth = self.growth()
        return math.floor(missing / growth) + 1 if growth > 1e-9 else None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "null": [self.null.margin, self.null.side],
            "production": [self.production.count, self.production.bad],
            "candidate": [self.candidate.count, self.candidate.bad],
            "open_production": [self.open_production.count, self.open_production.bad],
            "open_candidate": [self.open_candidate.count, self.open_candidate.bad],
            "log_e": self.log_e,
        }

    @staticmethod
    def from_json(values: dict[str, Any]) -> "EProcess":
        """What `to_json` wrote."""
        names = ("production", "candidate", "open_production", "open_candidate")
        streams = {name: Stream(*values[name]) for name in names}
        return EProcess(Hypothesis(*values["null"]), **streams, log_e=values["log_e"])

    def _closed(self) -> "EProcess":
        """The open block multiplies e; the estimates that it was bet with are those before it."""
        a, b = self.rates()
        ours, theirs = self.open_production, self.open_candidate
        log_factor = 0.0
        if not self.null.holds(a, b):
            a0, b0 = self.null.nearest(a, b, (ours.count, theirs.count))
            log_factor = _log_ratio(ours, a, a0) + _log_ratio(theirs, b, b0)
        production, candidate = self.seen
        return EProcess(self.null, production, candidate, log_e=self.log_e + log_factor)


def worse() -> EProcess:
    """Evidence that the candidate is worse; the hypothesis is that it is not."""
    return EProcess(Hypothesis(0.0, 1))


def not_worse_by(delta: float) -> EProcess:
    """Evidence that the candidate is less than `delta` worse; the hypothesis is that it is more."""
    return EProcess(Hypothesis(delta, -1))


def log_mean(processes: Sequence[EProcess]) -> float:
    """log of the mean of several e: evidence that one hypothesis at least is false.

    The mean of e-values is an e-value however they depend on each other (Vovk and Wang 2021,
    https://arxiv.org/abs/1912.06116): several kinds of outcomes need no correction.
    """
    logs = [process.log_e for process in processes]
    most = max(logs)
    return most + math.log(sum(math.exp(log - most) for log in logs) / len(logs))


def log_least(processes: Sequence[EProcess]) -> float:
    """log of the least of several e: evidence that all hypotheses are false.

    Whichever of them is true, its own e is small; so no correction is due here either.
    """
    return min(process.log_e for process in processes)


def difference(production: Stream, candidate: Stream, alpha: float) -> Estimate:
    """The candidate's rate minus production's with an interval, for people to look at.

    The asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024,
    https://arxiv.org/abs/2103.06476 (equations 9 and 155, tuned by 161): it covers the true
    difference at all times at once with probability 1 - alpha, approximately. It decides nothing.
    Rates are smoothed by one good and one bad outcome, so that no interval has width 0.
    """
    count = production.count + candidate.count
    value = candidate.rate - production.rate
    if min(production.count, candidate.count) < FEWEST_FOR_INTERVAL:
        return Estimate(value, None, None, count)
    half = _half_width(count * (_variance(production) + _variance(candidate)), count, alpha)
    return Estimate(value, max(-1.0, value - half), min(1.0, value + half), count)


def _half_width(variance: float, count: int, alpha: float) -> float:
    """Of the confidence sequence after `count` outcomes with this variance of one of them."""
    spread = -2 * math.log(alpha)
    rho2 = (spread + math.log(spread + 1)) / TIGHTEST_AT
    grown = count * rho2 + 1
    log_term = math.log(math.sqrt(grown) / alpha)
    return math.sqrt(variance) * math.sqrt(2 * grown * log_term / (count**2 * rho2))


def _variance(stream: Stream) -> float:
    """Of the mean of a stream."""
    rate = (stream.bad + 1) / (stream.count + 2)
    return rate * (1 - rate) / stream.count


def _slope(p: float, q: float) -> float:
    """Derivative of KL(p|q) by q."""
    return (q - p) / max(q * (1 - q), 1e-300)


def _divergence(p: float, q: float) -> float:
    """KL(p|q) of two yes/no outcomes, in nats."""
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def _log_ratio(stream: Stream, p: float, q: float) -> float:
    """log of the likelihood of the outcomes at rate p over that at rate q."""
    good = stream.count - stream.bad
    return stream.bad * math.log(p / q) + good * math.log((1 - p) / (1 - q))
