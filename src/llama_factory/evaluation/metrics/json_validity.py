"""JSON validity: whether an answer can be read as JSON, with the fields that it must have."""

import json
import re
from typing import Any, NoReturn

from llama_factory.evaluation.metrics import METRICS, Metric

FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)


@METRICS.register("json_validity")
class JsonValidity(Metric):
    """Share of answers that are valid JSON, alone or in a fenced block."""

    needs = frozenset()

    fields: list[str] = []
    """Names that the object, or every object of a list, must have. Empty: any JSON is valid."""

    def score(self, expected: str, answer: str) -> float:
        """See `Metric.score`."""
        fenced = FENCED.fullmatch(answer.strip())
        try:
            value = json.loads(fenced[1] if fenced else answer, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return 0.0
        return float(self._has_fields(value))

    def _has_fields(self, value: Any) -> bool:
        objects = value if isinstance(value, list) else [value]
        return not self.fields or (
            bool(objects)
            and all(isinstance(each, dict) and each.keys() >= set(self.fields) for each in objects)
        )


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
