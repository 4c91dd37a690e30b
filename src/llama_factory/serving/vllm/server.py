"""One running vLLM: what it is started with, and the calls to it."""

import json
import logging
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_factory.core.errors import FactoryError, ModelError, VersionError
from llama_factory.serving.errors import EngineDownError
from llama_factory.serving.remote.client import EngineClient, RefusedError
from llama_factory.serving.vllm import protocol
from llama_factory.serving.vllm.adapter_folders import ServedAdapter
from llama_factory.serving.vllm.settings import LEAST, VllmSettings

logger = logging.getLogger(__name__)

MODULE = ("-m", "vllm.entrypoints.cli.main")
UPDATES = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
BASE_NAME = "base"
TESTED = (0, 25)
"""Versions before it gave answers of other adapters after a load under traffic (vllm#47724)."""
ASK_SECONDS = 10.0
LOAD_SECONDS = 120.0
"""Longest load of an adapter, or one prompt of a proof."""
NOT_FOUND = 404
UNLIMITED = 2**31
NEVER = 600


def command(settings: VllmSettings, model: Path, port: int, rank: int) -> list[str]:
    """The command that starts it.

    Args:
        settings: with the Python of its environment, or its command.
        model: folder of the base model.
        port: to listen on.
        rank: `--max-lora-rank`, unless the settings name one.
    """
    start = settings.python
    head = [start, *MODULE] if isinstance(start, str) else start
    ours = {"host": "127.0.0.1", "port": port, "served-model-name": BASE_NAME, "enable-lora": True}
    # Sampling that the model's files prefer must not come on top of what a request asks for.
    usual = {**LEAST, "max-lora-rank": rank, "generation-config": "vllm"}
    flags = {**usual, **settings.arguments, **ours}
    return [*head, "serve", str(model), *(word for each in flags.items() for word in _flag(*each))]


def environment(settings: VllmSettings, key: str) -> dict[str, str]:
    """The environment variables that it is started with."""
    return {**settings.environment, UPDATES: "1", "VLLM_API_KEY": key}


def _flag(name: str, value: Any) -> list[str]:
    if value is True or value is False:
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, list | tuple):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]


@dataclass(frozen=True)
class VllmServer:
    """What was learned of a vLLM when it was met.

    Attributes:
        client: calls to it.
        base: its name of the base model.
        context: tokens of prompt and answer that it reads.
    """

    client: EngineClient
    base: str
    context: int

    @staticmethod
    async def meet(client: EngineClient, model: str) -> "VllmServer":
        """Look at what runs there.

        Args:
            client: calls to it.
            model: its name of the base model; empty for the first that it lists.

        Raises:
            ModelError: it is too old, or serves no such model.
            EngineDownError: it is not there.
        """
        _require_tested(await _called(client.get("/version", seconds=ASK_SECONDS)))
        cards = await _cards(client)
        bases = [card for card in cards if not card.get("parent")]
        chosen = [card for card in bases if model in ("", card["id"])]
        if not chosen:
            known = ", ".join(str(card["id"]) for card in bases) or "none"
            raise ModelError(
                f"serving.engine.model: {client.url} serves no model '{model}'. It has: {known}."
            )
        context = int(chosen[0].get("max_model_len") or UNLIMITED)
        return VllmServer(client, str(chosen[0]["id"]), context)

    async def adapters(self) -> dict[str, str]:
        """The adapters that it has: names and folders."""
        cards = await _cards(self.client)
        return {str(each["id"]): str(each.get("root")) for each in cards if each.get("parent")}

    async def give(self, adapter: ServedAdapter) -> None:
        """Make it load an adapter that it does not have.

        Raises:
            VersionError: it refuses.
            EngineDownError: it is not there.
        """
        there = (await self.adapters()).get(adapter.name)
        if there not in (None, str(adapter.folder)):
            raise VersionError(
                f"{self.client.url} has another adapter under the name {adapter.name} ({there}). "
                "Restart it."
            )
        if there is None:
            body = {"lora_name": adapter.name, "lora_path": str(adapter.folder)}
            await self._change("/v1/load_lora_adapter", body)

    async def take_back(self, adapter: ServedAdapter) -> None:
        """Make it forget an adapter; where it has none of that name, nothing happens."""
        try:
            await self._change("/v1/unload_lora_adapter", {"lora_name": adapter.name})
        except FactoryError as error:
            logger.warning("vLLM keeps %s: %s", adapter.name, error)

    async def loss(self, name: str, prompt: Sequence[int], answer: Sequence[int]) -> float:
        """The mean negative log-likelihood of an answer, in nats a token."""
        body = protocol.loss_request(name, prompt, answer)
        reply = await _called(self.client.post("/v1/completions", body, seconds=LOAD_SECONDS))
        return protocol.loss_of(reply, answer)

    def events(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a streamed completion."""
        return self.client.events("/v1/completions", body)

    async def _change(self, path: str, body: Mapping[str, Any]) -> None:
        try:
            # It answers with status 500 where an adapter cannot be loaded, and goes on.
            await self.client.post(path, body, seconds=LOAD_SECONDS, failing=NEVER)
        except RefusedError as error:
            if error.status in (NOT_FOUND, 405) and path.endswith("/load_lora_adapter"):
                raise VersionError(
                    f"{self.client.url} does not load adapters while it runs. Start it with "
                    f"{UPDATES}=1 --enable-lora --max-loras {LEAST['max-loras']} --max-cpu-loras "
                    f"{LEAST['max-cpu-loras']}, and with one API server process."
                ) from error
            raise VersionError(f"{body['lora_name']}: vLLM refuses it: {error}") from error


async def ask_health(client: EngineClient, seconds: float) -> None:
    """Ask whether it is well.

    Raises:
        EngineDownError: it is not, or is not there.
    """
    await _called(client.get("/health", seconds=seconds))


async def _cards(client: EngineClient) -> list[dict[str, Any]]:
    reply = await _called(client.get("/v1/models", seconds=ASK_SECONDS))
    try:
        return [dict(card) for card in reply["data"]]
    except (TypeError, KeyError, ValueError) as error:
        raise EngineDownError(f"{client.url} lists no models as vLLM does.") from error


async def _called(call: Any) -> Any:
    """The reply of a call that no server of the kind refuses."""
    try:
        return await call
    except RefusedError as error:
        raise ModelError(
            f"serving.engine: what answers is no vLLM as it is needed here (status {error.status}: "
            f"{error}). Look at its address and its key."
        ) from error


def _require_tested(reply: Any) -> None:
    named = str(reply.get("version", "")) if isinstance(reply, dict) else str(reply)
    numbers = re.match(r"(\d+)\.(\d+)", named)
    if numbers is None:
        logger.warning("vLLM names no version that can be compared ('%s')", named)
    elif tuple(map(int, numbers.groups())) < TESTED:
        raise ModelError(
            f"serving.engine: vLLM {named} is older than {'.'.join(map(str, TESTED))}, and mixes "
            "adapters that are loaded under traffic. Install a newer one in its environment."
        )
