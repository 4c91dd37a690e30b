"""An engine whose answers tests write, and which keeps what it was asked."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from llama_factory.core.errors import VersionError
from llama_factory.core.types import BASE_VERSION
from llama_factory.inference.question import (
    Answer,
    AnswerPiece,
    Options,
    Prompt,
    TextPrompt,
    TokenLogprob,
)
from llama_factory.versions.version import ModelVersion


@dataclass
class ScriptedEngine:
    """Gives one text, three characters a token.

    Attributes:
        script: text of every answer; `{version}` and `{seed}` stand for those of the answer.
        loaded: see `AnswerEngine`.
        unavailable: see `AnswerEngine`.
        asked: version, prompt and options of every answer, in the order they began.
        events: what was loaded and unloaded.
        broken: versions that cannot be loaded.
        gate: answers go on after their first token once it is open.
    """

    script: str = "Hello from {version}."
    loaded: frozenset[str] = frozenset({BASE_VERSION})
    unavailable: str = ""
    asked: list[tuple[str, Prompt, Options]] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    gate: threading.Event = field(default_factory=threading.Event)
    num_running: int = 0
    most_running: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    async def load(self, version: ModelVersion) -> None:
        await asyncio.sleep(0)
        if version.id in self.broken:
            raise VersionError(f"{version.id} is broken")
        self.events.append(f"load {version.id}")
        self.loaded |= {version.id}

    async def unload(self, version_id: str) -> None:
        await asyncio.sleep(0)
        self.events.append(f"unload {version_id}")
        self.loaded -= {version_id}

    async def answer(
        self, version_id: str, prompt: Prompt, options: Options
    ) -> AsyncGenerator[AnswerPiece | Answer, None]:
        assert version_id in self.loaded
        self.asked.append((version_id, prompt, options))
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        try:
            text = self.script.replace("{version}", version_id).replace("{seed}", str(options.seed))
            tokens = [text[start : start + 3] for start in range(0, len(text), 3)]
            logprobs = [_logprob(each, options.num_logprobs) for each in tokens]
            for token, logprob in zip(tokens, logprobs, strict=True):
                yield AnswerPiece(token, logprob)
                await asyncio.sleep(0)
                while not self.gate.is_set():
                    await asyncio.sleep(0.005)
            assert version_id in self.loaded, "unloaded in the middle of an answer"
            every = tuple(one for each in logprobs for one in each)
            yield Answer(text, 7, len(tokens), "stop", reused_tokens=5, logprobs=every)
        finally:
            self.num_running -= 1

    async def tokens(self, version_id: str, prompt: Prompt) -> tuple[int, ...]:
        if not isinstance(prompt, TextPrompt):
            return tuple(map(ord, "".join(each.content for each in prompt.messages)))
        return tuple(map(ord, prompt.text)) if isinstance(prompt.text, str) else prompt.text

    async def text(self, ids: tuple[int, ...]) -> str:
        return "".join(map(chr, ids))

    async def embed(self, version_id: str, prompt: Prompt) -> tuple[float, ...]:
        return (0.5, -0.25, float(len(await self.tokens(version_id, prompt))))

    async def score(self, version_id: str, text: str, max_tokens: int | None) -> float:
        return float(len(text[:max_tokens]))

    async def close(self) -> None:
        self.events.append("close")


def _logprob(token: str, num: int | None) -> tuple[TokenLogprob, ...]:
    if num is None:
        return ()
    others = tuple(TokenLogprob(f"{token}{n}", -1.0 - n) for n in range(num))
    return (TokenLogprob(token, -0.5, tuple(token.encode()), others),)
