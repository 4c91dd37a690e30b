"""What scores depend on besides the weights and the rows: kept with them, so that scores that were
measured in different ways are never compared.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from llama_factory.evaluation.metrics import METRICS
from llama_factory.evaluation.settings import EvaluationSettings
from llama_factory.evaluation.suite import BUILT_IN_GUARD, load_guard
from llama_factory.model.adapted import AdaptedModel

SCORING = 1
"""Raised when this program changes how it scores: what was measured before is measured again."""


def conditions_of(model: AdaptedModel, settings: EvaluationSettings) -> dict[str, Any]:
    """How a model is scored now, as plain values.

    Raises:
        ConfigError: the guard's file is missing or holds no usable row.
    """
    guard = load_guard(settings.guard or BUILT_IN_GUARD)
    how = model.options.format.filled(model.tokenizer)
    how = replace(how, template=_digest(str(how.template)))
    metrics = settings.metrics
    found = {
        "scoring": SCORING,
        "metrics": {m.label: [METRICS.name_of(m), m.model_dump(mode="json")] for m in metrics},
        "max_rows": settings.max_rows,
        "max_new_tokens": settings.max_new_tokens,
        "guard": _digest(*(row.key for row in guard)),
        "prompts": asdict(replace(model.options, format=how)),
        "dtype": str(next(model.network.parameters()).dtype).removeprefix("torch."),
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))  # as it is read again
    return plain


def differences(saved: Mapping[str, Any] | None, now: Mapping[str, Any]) -> list[str]:
    """In which respects scores would come out otherwise today; all, where nothing was saved.

    A metric that is no longer wanted is no difference.
    """
    if not saved:
        return list(now)
    wanted = now["metrics"]
    known = {label: how for label, how in saved.get("metrics", {}).items() if label in wanted}
    before = {**saved, "metrics": known}
    return [name for name, value in now.items() if before.get(name) != value]


def _digest(*texts: str) -> str:
    joined = "\n".join(texts).encode(errors="surrogatepass")
    return hashlib.blake2b(joined, digest_size=16).hexdigest()
