"""Where vLLM is and what it is started with. Loads no heavy library."""

import re
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from llama_factory.core.sentences import kind_of_sentence
from llama_factory.core.settings import Settings
from llama_factory.serving.remote.address import address
from llama_factory.serving.vllm.adapter_folders import LORA_RANKS

OURS = ("host", "port", "model", "served-model-name", "enable-lora", "lora-modules", "api-key")
"""Arguments of vLLM that are set here alone: the engine would not be reached without them."""
LEAST = {"max-loras": 4, "max-cpu-loras": 8}
"""Production, previous, candidate and one that is being loaded answer in one batch; more are kept
in memory. vLLM's own default is one of each, and then every second version is read from the disk
again under load."""


NO_ARGUMENT = kind_of_sentence("settings.no_argument", "'{name}' is no argument of vLLM.")
OUR_ARGUMENT = kind_of_sentence(
    "settings.our_argument", "'{name}' is set by this server. Leave it out."
)
TOO_FEW_FOR_ROLLBACK = kind_of_sentence(
    "settings.too_few_for_rollback", "{name} must be {least} or more for rollbacks; not {value}."
)
NO_LORA_RANK = kind_of_sentence(
    "settings.no_lora_rank", "max-lora-rank must be one of {ranks}; it is {value}."
)
NO_PLACE = kind_of_sentence(
    "settings.no_place",
    "type vllm needs `python` (of vLLM's own environment, to start it here) or `url` (of one "
    "that runs), and not both.",
)
NOT_STARTED_HERE = kind_of_sentence(
    "settings.not_started_here",
    "`arguments` and `environment` are for a vLLM that is started here, with `python`. Give "
    "them to the command that starts the one at `url`.",
)


class VllmSettings(Settings):
    """Of the engine `vllm`."""

    python: str | list[str] = ""
    """Python of the environment that vLLM is installed in (`/opt/vllm/bin/python`), or the command
    that starts it, as a list (`[vllm]`): it is started, watched, and started again where it dies
    or hangs. It cannot share the environment of this program: their requirements clash."""
    url: str = ""
    """Address of a vLLM that somebody else starts (`http://gpu-1:8000`), in place of `python`. It
    must run with `VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 --enable-lora --max-loras 4 --max-cpu-loras 8`
    and read `adapters` under the same path."""
    arguments: dict[str, Any] = {}
    """More arguments of `vllm serve`, without the dashes: `{max-model-len: 8192, dtype: bfloat16}`.
    `true` stands for the bare flag. Only where it is started here."""
    environment: dict[str, str] = {}
    """More environment variables of the process, such as `CUDA_VISIBLE_DEVICES`."""
    model: str = ""
    """The base model's name at `url`; empty takes the first that the server lists."""
    key_env: str = ""
    """Name of the environment variable that holds the key of the server at `url`."""
    adapters: Path | None = None
    """Where adapters are written for vLLM to read. Empty: the cache of the workspace. Set it to a
    folder that both machines see under this path where `url` is another machine."""
    start_seconds: float = Field(900, gt=0)
    """How long a start may take before it counts as failed. Large models need minutes."""
    probe_seconds: float = Field(5, gt=0)
    """How often its health is asked. Lower sees a dead engine sooner and asks more often."""
    silence_seconds: float = Field(120, gt=0)
    """After so long without a token for anybody it counts as hanging and is started again. Lower
    ends a hang sooner, and takes a very long prompt on a slow machine for one."""

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        return address(url) if url else url

    @field_validator("arguments")
    @classmethod
    def _leave_ours(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        named = {name.lstrip("-").replace("_", "-"): value for name, value in arguments.items()}
        for name, value in named.items():
            if not re.fullmatch(r"[A-Za-z0-9.-]+", name):
                raise ValueError(NO_ARGUMENT(name=name))
            if name in OURS:
                raise ValueError(OUR_ARGUMENT(name=name))
            if name in LEAST and not (isinstance(value, int) and value >= LEAST[name]):
                raise ValueError(TOO_FEW_FOR_ROLLBACK(name=name, least=LEAST[name], value=value))
            if name == "max-lora-rank" and value not in LORA_RANKS:
                raise ValueError(NO_LORA_RANK(ranks=LORA_RANKS, value=value))
        return named

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if bool(self.python) == bool(self.url):
            raise ValueError(NO_PLACE())
        if self.url and (self.arguments or self.environment):
            raise ValueError(NOT_STARTED_HERE())
        return self
