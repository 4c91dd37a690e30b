"""One request from its arrival to its end: what has come of its answers, and who is told of it."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial

from llama_factory.core.errors import FactoryError
from llama_factory.inference.question import Answer, AnswerPiece, RequestError
from llama_factory.serving.engines.engine import AnswerEngine
from llama_factory.serving.errors import ShuttingDownError
from llama_factory.serving.outcome import Asked, FinishReason, Observer, Outcome

logger = logging.getLogger(__name__)

Event = AnswerPiece | Answer

SERVER_ERROR = 500


@dataclass
class _Track:
    """How far one answer has come."""

    pieces: list[str] = field(default_factory=list)
    first_at: float | None = None
    answer: Answer | None = None
    ended_at: float | None = None

    def take(self, event: Event) -> None:
        now = time.monotonic()
        if isinstance(event, Answer):
            self.answer, self.ended_at = event, now
            return
        self.pieces.append(event.text)
        if event.text and self.first_at is None:
            self.first_at = now


class Answering:
    """The answers to one request.

    Attributes:
        asked: the request.
        version_id: the version that answers, whatever is released meanwhile; empty until its turn
            has come.
    """

    def __init__(self, asked: Asked, observers: Sequence[Observer]) -> None:
        self.asked = asked
        self.version_id = ""
        self._observers = observers
        self._tracks = [_Track() for _ in asked.choices]
        self._line: asyncio.Queue[tuple[int, Event] | BaseException | None] = asyncio.Queue()
        self._began = time.time()
        self._began_at = self._turn_at = self._moved_at = time.monotonic()

    @property
    def quiet_seconds(self) -> float:
        """How long nothing has come of it."""
        return time.monotonic() - self._moved_at

    def counts(self) -> dict[str, int | str]:
        """What the log says of answers: tokens, and why they ended; empty before all have."""
        answers = [track.answer for track in self._tracks if track.answer]
        if len(answers) < len(self._tracks):
            return {}
        return {
            "prompt_tokens": sum(each.prompt_tokens for each in answers),
            "completion_tokens": sum(each.completion_tokens for each in answers),
            "finish": ",".join(sorted({each.finish_reason for each in answers})),
        }

    def begin(self, version_id: str) -> None:
        """Its turn has come."""
        self.version_id = version_id
        self._turn_at = self._moved_at = time.monotonic()
        for observer in self._observers:
            _notify(partial(observer.begun, self.asked, version_id))

    async def run(self, engine: AnswerEngine, num_at_once: int) -> None:
        """Compute the answers.

        Args:
            engine: has the version loaded.
            num_at_once: how many may be computed at the same time.

        Raises:
            FactoryError: one could not be computed.
        """
        seats = asyncio.Semaphore(num_at_once)
        works = [self._one(engine, seats, index) for index in range(len(self._tracks))]
        if len(works) == 1:
            await works[0]
            return
        try:
            async with asyncio.TaskGroup() as group:
                for work in works:
                    group.create_task(work)
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from None

    async def _one(self, engine: AnswerEngine, seats: asyncio.Semaphore, index: int) -> None:
        prompt, options = self.asked.choices[index]
        async with seats, aclosing(engine.answer(self.version_id, prompt, options)) as events:
            async for event in events:
                self._moved_at = time.monotonic()
                self._tracks[index].take(event)
                self._line.put_nowait((index, event))

    async def events(self) -> AsyncGenerator[tuple[int, Event], None]:
        """The number of an answer and what is new of it, until `end`.

        Raises:
            FactoryError: what `end` was given.
        """
        while (item := await self._line.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def cut(self) -> None:
        """End it now, because the server ends."""
        self._line.put_nowait(
            ShuttingDownError("the server is being stopped. Ask again once it is back.")
        )

    def end(self, error: BaseException | None = None) -> None:
        """All has come, or something failed."""
        self._line.put_nowait(error)

    def record(self, error: BaseException | None) -> None:
        """Give every answer's outcome to the observers; `error` ended those that are not whole."""
        for index, track in enumerate(self._tracks):
            outcome = self._outcome(index, track, None if track.answer else error)
            for observer in self._observers:
                _notify(partial(observer.finished, outcome))

    def _outcome(self, index: int, track: _Track, error: BaseException | None) -> Outcome:
        answer, first_at = track.answer, track.first_at
        return Outcome(
            asked=self.asked,
            index=index,
            version_id=self.version_id,
            text="".join(track.pieces),
            prompt_tokens=answer.prompt_tokens if answer else 0,
            completion_tokens=answer.completion_tokens if answer else 0,
            reused_tokens=answer.reused_tokens if answer else 0,
            began=self._began,
            seconds_waited=self._turn_at - self._began_at,
            seconds_to_first=None if first_at is None else first_at - self._began_at,
            seconds=(track.ended_at or time.monotonic()) - self._began_at,
            finish_reason=_reason(answer, error),
            error="" if error is None or _is_leaving(error) else _name_of(error),
            is_servers_fault=error is not None and _is_servers_fault(error),
        )


def _reason(answer: Answer | None, error: BaseException | None) -> FinishReason:
    if answer:
        return answer.finish_reason
    return "cancelled" if error is None or _is_leaving(error) else "failed"


def _is_leaving(error: BaseException) -> bool:
    return isinstance(error, asyncio.CancelledError | GeneratorExit)


def _is_servers_fault(error: BaseException) -> bool:
    if _is_leaving(error) or isinstance(error, ShuttingDownError):
        return False
    return not isinstance(error, RequestError) or error.status >= SERVER_ERROR


def _name_of(error: BaseException) -> str:
    code = getattr(error, "code", None)
    return str(code) if isinstance(error, FactoryError) and code else type(error).__name__


def _notify(call: Callable[[], None]) -> None:
    """An observer that fails must not cost anybody an answer."""
    try:
        call()
    except Exception:
        logger.exception("an observer of answers failed")
