"""Settings of the model room: the base model, which of its weights train, how it is exported."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from llama_factory.core.errors import ConfigError, ModelError, suggest
from llama_factory.core.sentences import kind_of_sentence
from llama_factory.core.settings import OneOf, Settings
from llama_factory.model.adapters import ADAPTERS, Adapter
from llama_factory.model.adapters.lora import Lora
from llama_factory.model.chat.templates import find

Rounding = Literal["none", "int8_weight", "int4_weight", "int8_dynamic_int4_weight"]
EXPORT_DTYPES = ("float32", "bfloat16", "float16")
SHARD_SIZE = re.compile(r"\d+(\.\d+)?[KMG]i?B")


NO_REPLACEMENT = kind_of_sentence(
    "settings.no_replacement",
    "replace_template is set and template names nothing. Name a template.",
)
ROUNDS_BESIDE = kind_of_sentence(
    "settings.rounds_beside",
    "quantization_aware: {rounding} rounds weights that train, and adapter {adapter} trains others "
    "beside them: merged, they would be rounded anew. Use adapter full or freeze; or leave "
    "quantization_aware out, with adapter qlora for training beside packed weights.",
)
EMPTY_TOKEN = kind_of_sentence(
    "settings.empty_token", "a token must have text, and one of {words} has none. Leave it out."
)


class ModelSettings(Settings):
    """The base model and its adapter."""

    base_model: str = "smollm2"
    """A short name (`smollm2`, `qwen2-7b`), a folder with a Transformers model, or a hub id."""
    template: str | None = None
    """A named chat template (`llama3`, `chatml`, `chatglm` ...) for tokenizers that have none. A
    tokenizer's own template wins unless `replace_template` is set; a named one that differs from it
    is reported."""
    replace_template: bool = False
    """Write conversations with `template` even where the tokenizer has a template of its own. The
    model then learns another format than the one it knows, which takes more rows."""
    adapter: Annotated[Adapter, OneOf(ADAPTERS)] = Lora()
    """What trains. Beside a frozen base: `lora`, `oft`, `ia3`, `bottleneck`, `prompt`; beside a
    packed one: `qlora`, `qoft`. The base model's own weights, without a workspace: `freeze`,
    `full`."""
    adapter_paths: list[Path] = []
    """Saved adapters to start at, without a workspace: all but the last are merged into the base
    model, and training goes on with the last one."""
    create_new_adapter: bool = False
    """Merge all of `adapter_paths`, and train a new adapter on top instead of going on with the
    last one. The new one fits the base only with the others merged; copies lie beside it."""
    new_tokens: list[str] = []
    """Words that become single tokens, without a workspace. Their rows in the embeddings start at
    the mean of the tokens that spelt them before, train, and are saved with the adapter."""
    new_special_tokens: list[str] = []
    """The same for marks that are no text (`<|tool|>`): they are left out of shown answers. Of all
    special tokens only those named here are tokens where the text of a turn writes them."""
    resize_vocab: bool = False
    """Give rows in the embeddings to those tokens of the model's own tokenizer that have none, and
    train them, without a workspace. `new_tokens` get theirs in any case."""
    freeze_layers: int = Field(0, ge=0)
    """The lowest n layers carry no trained weight. Higher forgets less and trains faster."""
    dtype: Literal["auto", "float32", "bfloat16", "float16", "pure_bfloat16"] = "auto"
    """Number format of the products and of frozen weights; what trains and the optimizer stay in
    float32. `auto`: the shortest that this hardware is fast at. `float16` trains on GPUs, its loss
    scaled. `pure_bfloat16`: nothing is float32, which needs least memory and learns less exactly.
    """
    quantization_aware: Rounding = "none"
    """Train with weights that are rounded in every pass (torchao), for a model that is served
    packed: it then answers packed as it did while it trained. For adapters `full` and `freeze`,
    without a workspace. `int8_weight`: 8 bits; `int4_weight`: 4 bits, a scale for 32 weights;
    `int8_dynamic_int4_weight`: what goes into a layer is rounded too, to 8 bits. Fewer bits need
    less memory when it is served and are less exact; training is slower."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "flex"] = "auto"
    """Which program computes attention; results are the same. `auto`: the fastest of torch's own
    (`sdpa`). `eager` needs most memory; `flash_attention_2` and `flex` need a GPU."""
    rope_scaling: Literal["linear", "dynamic", "yarn", "llama3"] | None = None
    """How positions beyond those that the model was trained with are made. `linear` presses all
    together and must be trained; `yarn` and `llama3` leave near ones as they are; `dynamic` depends
    on the longest row. Empty: as the model's config says."""
    rope_tokens: int | None = Field(None, ge=1)
    """Tokens that `rope_scaling` must reach; where the model reaches them by itself, nothing is
    changed. Empty: twice the model's own length."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for sources you trust."""

    @field_validator("template")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        try:
            if name is not None:
                find(name)
            return name
        except ModelError as error:
            raise ValueError(str(error).removeprefix("model.template: ")) from None

    @model_validator(mode="after")
    def _has_replacement(self) -> Self:
        if self.replace_template and self.template is None:
            raise ValueError(NO_REPLACEMENT())
        return self

    @model_validator(mode="after")
    def _rounds_what_trains(self) -> Self:
        if self.quantization_aware != "none" and self.adapter.peft_type is not None:
            name = ADAPTERS.name_of(self.adapter)
            raise ValueError(ROUNDS_BESIDE(rounding=self.quantization_aware, adapter=name))
        return self

    @field_validator("new_tokens", "new_special_tokens")
    @classmethod
    def _are_words(cls, words: list[str]) -> list[str]:
        if any(not word.strip() for word in words):
            raise ValueError(EMPTY_TOKEN(words=words))
        return words

    def beyond_rounds(self) -> str:
        """The first setting that only a run without a workspace follows; empty where none is."""
        alone = (
            "adapter_paths",
            "create_new_adapter",
            "new_tokens",
            "new_special_tokens",
            "resize_vocab",
        )
        return next((f"model.{name}" for name in alone if getattr(self, name)), "")


@dataclass(frozen=True)
class ExportOptions:
    """How the merged model is written.

    Attributes:
        dtype: number format of the weights; None keeps that of the base model.
        shard_size: largest weight file, such as `5GB`.
        enable_thinking: what its chat template takes for granted, if nothing was written down
            beside the weights.
    """

    dtype: str | None = None
    shard_size: str = "5GB"
    enable_thinking: bool | None = None

    def check(self) -> None:
        """Refuse options that cannot be followed.

        Raises:
            ConfigError: the message names the option.
        """
        if self.dtype is not None and self.dtype not in EXPORT_DTYPES:
            raise ConfigError(
                f"--dtype: '{self.dtype}' is no number format to export to."
                f"{suggest(self.dtype, EXPORT_DTYPES)} Known: {', '.join(EXPORT_DTYPES)}."
            )
        if not SHARD_SIZE.fullmatch(self.shard_size):
            raise ConfigError(
                f"--shard-size: '{self.shard_size}' is no size. Write a number and KB, MB or GB, "
                "such as 5GB."
            )
