"""What a run is: a checkpoint belongs to one, and what changed since is told."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from llama_factory.training.planning import NEW
from llama_factory.training.rows import Rows
from llama_factory.training.settings import WITHOUT_EFFECT
from llama_factory.training.strategy import STRATEGIES
from llama_factory.training.update import Run

Description = Mapping[str, Any]
"""Plain values: rows, how they are taught, strategies, base model."""


def describe(run: Run, rows: Rows) -> Description:
    """All that the updates of a run depend on."""
    strategies, options = run.protection.strategies, run.model.options
    told, how = asdict(options), options.format
    del told["format"]
    return {
        "the rows": _hash([row.key for row in rows.examples[NEW]]),
        "rows by source": rows.sizes,
        "training": run.settings.model_dump(mode="json", exclude=WITHOUT_EFFECT),
        "strategies": {STRATEGIES.name_of(s): s.model_dump(mode="json") for s in strategies},
        "the base model's files": run.model.fingerprint,
        "data": told | {"enable_thinking": how.enable_thinking},
        "model.new_special_tokens": [*how.text_tokens],
        "the chat template": _hash(how.template or run.model.tokenizer.chat_template),
        "model.dtype": str(run.model.precision.dtype).removeprefix("torch."),
        "the weights that train": _hash(sorted(run.model.trainable())),
    }


def name_of(description: Description) -> str:
    """One short text, the same for the same run."""
    return _hash(description)


def differences(before: Description, now: Description) -> list[str]:
    """What changed, in words: `training.learning_rate (0.01, now 0.02)`."""
    return list(_differences(before, now, ""))


def _differences(before: Any, now: Any, name: str) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            inner = f"{name}.{key}" if name else key
            yield from _differences(before.get(key), now.get(key), inner)
    elif before != now:
        is_hash = name.startswith("the ")
        yield name if is_hash else f"{name} ({before}, now {now})"


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
