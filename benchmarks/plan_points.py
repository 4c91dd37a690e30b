"""Peak memory that others published, beside the range of `llama-factory plan` for the same.

Usage: plan_points.py [--points FILE] [--quick] [--out FILE]
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parent))
import common

from llama_factory.model.known_configs import config_of
from llama_factory.model.settings import ModelSettings
from llama_factory.model.shape import ModelShape, shape_of
from llama_factory.training.memory import GIB, Load, Sharing, memory_needed

POINTS = Path(__file__).parent / "data" / "plan_points.yaml"
UNITS = {"GB": 10**9, "GiB": GIB}
WHOLE_LOGITS = (6, 18)
"""Bytes a score of programs that hold them all: at least in 16 bits and once in float32; at most
also shifted, in the softmax, and as its gradient, each in float32."""


@dataclass(frozen=True)
class Point:
    """One published peak, and ours.

    Attributes:
        source: its letter in the file of points.
        model: its name.
        what: that was run.
        tokens: computed at once.
        published: in GB, 10^9 bytes.
        low: ours, with the other program's logits where it holds them whole.
        high: the same, its upper end.
        own: what this program needs for the same, upper end; smaller where logits are not held.
        differs: why it cannot be compared; empty where it can.
    """

    source: str
    model: str
    what: str
    tokens: int
    published: float
    low: float
    high: float
    own: float
    differs: str

    @property
    def is_inside(self) -> bool:
        """Whether the published peak lies in the range."""
        return self.low <= self.published <= self.high

    @property
    def error(self) -> float:
        """Of the middle of the range."""
        return (self.low + self.high) / 2 / self.published - 1


def points(path: Path) -> Iterator[Point]:
    """All points of a file."""
    for series in yaml.safe_load(path.read_text(encoding="utf-8"))["series"]:
        for tokens, peak in zip(series["tokens"], series["peak"], strict=True):
            yield _point(series, tokens, peak)


def _point(series: dict[str, Any], tokens: int, peak: float) -> Point:
    shape = _shape(series["model"], json.dumps(series["adapter"]), series.get("dtype", "bfloat16"))
    load = Load(tokens, tokens, recomputes=series.get("recomputes", False))
    count = series.get("count", 1)
    sharing = Sharing(
        count, shards=series.get("shards", False), offloads=series.get("offloads", False)
    )
    memory = memory_needed(shape, load, sharing)
    times = count if series.get("sum") else 1
    scores = tokens * shape.vocabulary if series.get("logits") == "whole" else 0
    low = memory.least + WHOLE_LOGITS[0] * scores
    high = memory.most + WHOLE_LOGITS[1] * scores
    ours = [each * times / 10**9 for each in (low, high, memory.most)]
    published = peak * UNITS[series["unit"]] / 10**9
    return Point(
        series["source"], series["model"], series["what"], tokens, published, *ours,
        series.get("differs", ""),
    )  # fmt: skip


@cache
def _shape(model: str, adapter: str, dtype: str) -> ModelShape:
    values = {"base_model": model, "adapter": json.loads(adapter), "dtype": dtype}
    return shape_of(config_of(model), ModelSettings.model_validate(values))


def summary(found: list[Point]) -> dict[str, Any]:
    """How many of the comparable points lie inside."""
    comparable = [point for point in found if not point.differs]
    inside = sum(point.is_inside for point in comparable)
    return {
        "points": len(found),
        "comparable": len(comparable),
        "inside": inside,
        "share": inside / len(comparable),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=Path, default=POINTS)
    parser.add_argument("--quick", action="store_true", help="the first series only")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = []
    for point in points(options.points):
        if options.quick and found and point.what != found[0].what:
            break
        found.append(point)
    columns = ["", "model", "what", "tokens", "published", "low", "high", "error", "", "ours alone"]
    rows = [
        [
            each.source, each.model, each.what, each.tokens, each.published, each.low, each.high,
            f"{each.error:+.0%}",
            each.differs or ("inside" if each.is_inside else "OUTSIDE"), each.own,
        ]
        for each in found
    ]  # fmt: skip
    common.print_table("Peak memory in GB (10^9 bytes): published, and planned", columns, rows)
    total = summary(found)
    print(f"\n{total['inside']} of {total['comparable']} comparable points lie in their range")
    runs = [asdict(each) | {"inside": each.is_inside, "error": each.error} for each in found]
    common.write_results(options.out, {"summary": total, "runs": runs})


if __name__ == "__main__":
    main()
