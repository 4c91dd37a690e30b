"""README.md of a trained adapter or model: what it is, what it was made of, how it is used."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from llama_factory.model.adapters import ADAPTERS
from llama_factory.rounds.settings import LearningConfig
from llama_factory.training.objectives import OBJECTIVES
from llama_factory.training.optimizers import OPTIMIZERS
from llama_factory.training.schedules import SCHEDULES

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def write(folder: Path, config: LearningConfig, results: Mapping[str, Any]) -> None:
    """Write the card of what a run made, as model hubs show it.

    Args:
        folder: of its weights.
        config: of the run.
        results: what all_results.json holds.
    """
    head = yaml.safe_dump(_head(config), sort_keys=False, allow_unicode=True)
    text = "\n".join(["---", head.rstrip(), "---", "", *_body(folder, config, results)])
    (folder / "README.md").write_text(text + "\n", encoding="utf-8")


def _head(config: LearningConfig) -> dict[str, Any]:
    """The tags that a hub searches by."""
    base, adapter = config.model.base_model, config.model.adapter
    kind = ADAPTERS.name_of(adapter)
    head: dict[str, Any] = {"library_name": "peft" if adapter.peft_type else "transformers"}
    if HUB_NAME.fullmatch(base) and not Path(base).exists():
        head["base_model"] = base
    head["tags"] = ["llama-factory", kind, OBJECTIVES.name_of(config.training.objective)]
    return head | {"pipeline_tag": "text-generation"}


def _body(folder: Path, config: LearningConfig, results: Mapping[str, Any]) -> Iterator[str]:
    base, adapter = config.model.base_model, config.model.adapter
    name = folder.parent.name if folder.name.startswith(".") else folder.name
    yield f"# {name}\n"
    what = "An adapter for" if adapter.peft_type else "All weights of"
    yield f"{what} `{base}`, trained with LLaMA Factory, continual edition, on {_data(config)}.\n"
    yield "## Use\n"
    yield "```python"
    yield from _use(base, is_adapter=adapter.peft_type is not None)
    yield "```\n"
    yield "## Training\n"
    yield "| setting | value |"
    yield "|---|---|"
    yield from (f"| {key} | {value} |" for key, value in _settings(config).items())
    yield "\n## Results\n"
    yield "| number | value |"
    yield "|---|---|"
    yield from (f"| {key} | {value} |" for key, value in results.items() if _is_number(value))


def _data(config: LearningConfig) -> str:
    names = config.data.dataset or [str(config.data.train_path)]
    return ", ".join(f"`{Path(name).name}`" for name in names)


def _use(base: str, *, is_adapter: bool) -> Iterator[str]:
    yield "from transformers import AutoModelForCausalLM"
    if not is_adapter:
        yield 'model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER")'
        return
    yield "from peft import PeftModel"
    yield f'base = AutoModelForCausalLM.from_pretrained("{base}")'
    yield 'model = PeftModel.from_pretrained(base, "THIS_FOLDER")'


def _settings(config: LearningConfig) -> dict[str, Any]:
    training = config.training
    return {
        "adapter": ADAPTERS.name_of(config.model.adapter),
        "objective": OBJECTIVES.name_of(training.objective),
        "learning rate": training.learning_rate,
        "rows in an update": training.batch_size,
        "optimizer": OPTIMIZERS.name_of(training.optimizer),
        "schedule": SCHEDULES.name_of(training.schedule),
        "epochs": training.epochs if training.max_steps is None else "",
        "updates": training.max_steps or "",
        "seed": training.seed,
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
