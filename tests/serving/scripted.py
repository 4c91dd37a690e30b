"""An engine without a model whose versions behave as a test wants, and users who talk to it."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from openai import OpenAI

from llama_factory.core.errors import ModelError, VersionError
from llama_factory.inference.question import Answer, AnswerPiece, Options, Prompt, Question
from llama_factory.versions.version import ModelVersion


@dataclass(frozen=True)
class Behaviour:
    """What a version does.

    Attributes:
        wrong: fraction of wrong answers.
        failing: fraction of answers that fail.
        seconds: that an answer takes.
        loads: whether it can be loaded.
    """

    wrong: float = 0.0
    failing: float = 0.0
    seconds: float = 0.0
    loads: bool = True


@dataclass
class ScriptedEngine:
    """Answers `right` or `wrong`, or fails, by the script of the version."""

    script: dict[str, Behaviour]
    seed: int = 0
    unavailable: str = ""
    loaded: frozenset[str] = frozenset({"v0000"})
    num_answers: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.draws = random.Random(self.seed)

    async def load(self, version: ModelVersion) -> None:
        if not self.script.get(version.id, Behaviour()).loads:
            raise VersionError(f"{version.id} answers as the base model does")
        self.loaded |= {version.id}

    async def unload(self, version_id: str) -> None:
        self.loaded -= {version_id}

    async def answer(
        self, version_id: str, prompt: Prompt, options: Options
    ) -> AsyncGenerator[AnswerPiece | Answer, None]:
        assert version_id in self.loaded
        assert isinstance(prompt, Question)
        self.num_answers[version_id] += 1
        behaviour = self.script.get(version_id, Behaviour())
        await asyncio.sleep(behaviour.seconds)
        if self.draws.random() < behaviour.failing:
            raise ModelError("the numbers of this answer are no numbers")
        text = "wrong" if self.draws.random() < behaviour.wrong else "right"
        yield AnswerPiece(text)
        yield Answer(text, 7, 2, "stop")

    async def tokens(self, version_id: str, prompt: Prompt) -> tuple[int, ...]:
        return (1,)

    async def text(self, ids: tuple[int, ...]) -> str:
        return "1"

    async def embed(self, version_id: str, prompt: Prompt) -> tuple[float, ...]:
        return (1.0,)

    async def score(self, version_id: str, text: str, max_tokens: int | None) -> float:
        return 1.0

    async def close(self) -> None:
        self.loaded = frozenset()


@dataclass
class Users:
    """People who ask, go on asking, and turn their thumbs down where an answer is wrong."""

    client: OpenAI
    rate: Callable[[str, bool], None]
    versions: Counter[str] = field(default_factory=Counter)
    num_asked: int = 0
    by_user: dict[str, set[str]] = field(default_factory=dict)

    def talk(self, num: int, num_turns: int = 1, model: str = "production") -> None:
        """So many conversations, one after the other, each of a user of its own."""
        for _ in range(num):
            self.num_asked += 1
            self.one(f"user {self.num_asked}", num_turns, model)

    def one(self, user: str, num_turns: int = 1, model: str = "production") -> list[str]:
        """One conversation; returns the versions that answered."""
        turns: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]
        answered = []
        for _ in range(num_turns):
            try:
                got = self.client.chat.completions.create(model=model, messages=turns, user=user)
            except Exception as error:  # noqa: BLE001  # the user goes away
                self.versions[type(error).__name__] += 1
                return answered
            text = got.choices[0].message.content
            self.versions[got.model] += 1
            self.by_user.setdefault(user, set()).add(got.model)
            answered.append(got.model)
            self.rate(got.id, text == "wrong")
            turns += [{"role": "assistant", "content": text}, {"role": "user", "content": "more"}]
        return answered


def health(client: OpenAI) -> dict[str, Any]:
    return httpx.get(str(client.base_url.join("/health"))).json()
