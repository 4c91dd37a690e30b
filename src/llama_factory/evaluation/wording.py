"""Numbers as they are printed for people, in tables, pages and pictures alike."""

from llama_factory.core.types import BASE_VERSION
from llama_factory.evaluation.statistics import Estimate

MEANINGS = (
    ("average", "AA: mean of the last line"),
    ("learned", "LA: mean of each task right after its own round"),
    ("backward_transfer", "BWT: change of earlier tasks since their own round; below 0 is loss"),
    ("forgetting", "loss of earlier tasks against their best so far"),
    ("forward_transfer", "FWT: gain over the base model on tasks not yet taught"),
)
"""Of the five numbers of a matrix."""
IN_BRACKETS = "In brackets: before the task was taught."


def verdict(*, promoted: bool, held: bool) -> str:
    """The gate's verdict of a version in a word."""
    if promoted:
        return "promoted"
    return "held" if held else "refused"


def outcome(found: str, *, passed: bool) -> str:
    """A check's outcome as a mark; one that is undecided says whether it was let through."""
    if found == "undecided":
        return "pass?" if passed else "FAIL?"
    return "pass" if passed else "FAIL"


def number(value: float | None, digits: int = 2) -> str:
    """A number; `-` where there is none."""
    return "-" if value is None or value != value else f"{value:.{digits}f}"  # NaN is unlike itself


def interval(estimate: Estimate | None, digits: int = 2) -> str:
    """`0.41 – 0.66`; nothing where it is not known."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return f"{estimate.low:.{digits}f} – {estimate.high:.{digits}f}"


def with_interval(value: float | None, estimate: Estimate | None, digits: int = 2) -> str:
    """`0.52 (0.41 – 0.66)`; the number alone where its interval is not known."""
    known = interval(estimate, digits)
    return f"{number(value, digits)} ({known})" if known else number(value, digits)


def cell(value: float | None, *, is_taught: bool) -> str:
    """A cell of a matrix: in brackets where the task was not taught yet, empty without a score."""
    if value is None or value != value:
        return ""
    return number(value) if is_taught else f"({number(value)})"


def row_name(version: str) -> str:
    """The name of a version's row in a matrix."""
    return "base model" if version == BASE_VERSION else f"after {version}"
