"""Answers as text with a base model and its versions, in this process, many at once.

`BatchEngine` makes the tokens; here questions become prompts as each version was taught, and tokens
become text. Whoever uses it calls it from one thread at a time.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from transformers.utils import logging as transformers_logging

from llama_factory.core.errors import ServingError
from llama_factory.core.types import BASE_VERSION
from llama_factory.inference.batch_engine import BatchEngine
from llama_factory.inference.constraints import Compiler, Matcher
from llama_factory.inference.delivery import Deliver, Delivery
from llama_factory.inference.memory import limits_for
from llama_factory.inference.packed import Span
from llama_factory.inference.places import Place, Places
from llama_factory.inference.question import (
    Answer,
    AnswerPiece,
    Options,
    Prompt,
    PromptTooLongError,
    RequestError,
)
from llama_factory.inference.request import Ended, Event, Request, Ticket
from llama_factory.inference.settings import InferenceSettings
from llama_factory.model.chat.prompt_format import USUAL, PromptFormat
from llama_factory.model.chat.template import REFUSALS
from llama_factory.model.settings import ModelSettings
from llama_factory.versions.version import ModelVersion

UNLOADED = "version {} was unloaded before it could answer. Ask again."
NO_HEAD = (
    "{} answers and scores nothing: a score is made by the head of a reward model. Train one "
    "(stage rm, or training.objective reward), and serve the folder in which it wrote "
    "value_head.safetensors."
)


@dataclass(frozen=True)
class Prepared:
    """A question as the engine takes it: made by `VersionEngine.prepare`."""

    request: Request
    options: Options
    matcher: Matcher | None
    place: Place


class VersionEngine:
    """A base model and the versions that were loaded beside it."""

    def __init__(
        self,
        settings: ModelSettings,
        usual: PromptFormat = USUAL,
        inference: InferenceSettings | None = None,
    ) -> None:
        """Load the base model.

        Args:
            settings: which one.
            usual: how the base version is asked, and versions that nothing was written down for.
            inference: number format and memory.

        Raises:
            ModelError: it cannot be found or read.
        """
        transformers_logging.set_verbosity_error()
        how = inference or InferenceSettings()
        self._base_model = settings.base_model
        self._places = Places(settings, usual, how)
        self._compilers: dict[int, tuple[Any, Compiler]] = {}
        limits = limits_for(self._places.network, self._places[BASE_VERSION].reader.dtype, how)
        self.batch = BatchEngine(lambda name: self._places[name].reader, limits)
        self._deliveries: dict[Ticket, Delivery] = {}
        self._stepping, self._preparing = threading.Lock(), threading.Lock()
        # Other threads look at it: it is replaced and never changed.
        self.loaded = self._places.ids

    def read(self, version: ModelVersion) -> Place:
        """Read a version's files; on any thread, while others are answered.

        Raises:
            VersionError: it belongs to another base model, or cannot be read.
        """
        return self._places.read(version)

    def load(self, version: ModelVersion, place: Place | None = None) -> None:
        """Make a version ready to answer; one that is ready stays as it is.

        Args:
            version: which one.
            place: what `read` gave, where it was called before.

        Raises:
            VersionError: it belongs to another base model, cannot be read, or computes no numbers.
                It leaves no trace.
        """
        if version.id in self.loaded:
            return
        place = place or self.read(version)
        with self._stepping:
            self._places.add(version, place)
        self.loaded = self._places.ids

    def unload(self, version_id: str) -> None:
        """Free what a version holds; answers in progress fail. The base version stays."""
        if version_id == BASE_VERSION:
            return
        self.loaded -= {version_id}
        with self._stepping:
            gone = ServingError(UNLOADED.format(version_id))
            self._deliver(self.batch.drop(version_id, gone))
            self._places.remove(version_id)

    def prepare(self, version_id: str, prompt: Prompt, options: Options) -> Prepared:
        """Make a request of a question; on any thread, while others are answered.

        Args:
            version_id: a version that was loaded.
            prompt: what is asked.
            options: how to answer.

        Raises:
            RequestError: the prompt is too long, or does not fit the chat template; or the
                constraint cannot be used.
        """
        with self._preparing:
            ids = self.tokens(version_id, prompt)
            matcher = self._matcher(version_id, options)
        place = self._places[version_id]
        ends = frozenset() if options.ignore_eos else place.end_tokens
        request = Request(
            tuple(ids),
            version_id,
            max_tokens=options.max_tokens,
            sampling=options.sampling,
            end_tokens=ends | set(options.stop_token_ids),
            min_tokens=options.min_tokens,
            constraint=options.constraint,
            num_logprobs=options.num_logprobs,
        )
        return Prepared(request, options, matcher, place)

    def submit(self, prepared: Prepared, deliver: Deliver) -> Ticket:
        """Begin an answer; what comes of it is delivered during later steps.

        Args:
            prepared: what is asked.
            deliver: takes the pieces, then the whole answer or why there is none.

        Raises:
            ServingError: the version has been unloaded.
        """
        request = prepared.request
        if request.version not in self.loaded:
            raise ServingError(UNLOADED.format(request.version))
        of_answer = (prepared.options, len(request.prompt), request.end_tokens, deliver)
        with self._stepping:  # nothing is computed before it can be delivered
            ticket = self.batch.submit(request, prepared.matcher)
            self._deliveries[ticket] = Delivery(prepared.place.texts, *of_answer)
        return ticket

    @property
    def is_idle(self) -> bool:
        """Whether nothing is to be computed."""
        return self.batch.is_idle

    def cancel(self, ticket: Ticket) -> None:
        """Nobody waits for an answer any more; nothing more of it is delivered. For any thread."""
        if delivery := self._deliveries.get(ticket):
            delivery.is_over = True
        self.batch.cancel(ticket)

    def step(self) -> None:
        """Compute on for all answers, and deliver what has come."""
        with self._stepping:
            self._deliver(self.batch.step())

    def _deliver(self, events: Iterable[Event]) -> None:
        for event in events:
            delivery = self._deliveries[event.ticket]
            if isinstance(event, Ended):
                del self._deliveries[event.ticket]
                delivery.end(event)
            elif not delivery.take(event):
                self.batch.cancel(event.ticket)

    def fail_all(self, error: Exception) -> None:
        """Give up all answers."""
        for ticket, delivery in list(self._deliveries.items()):
            delivery.fail(error)
            self.batch.cancel(ticket)

    def answer(
        self,
        version_id: str,
        prompt: Prompt,
        options: Options,
        on_text: Callable[[str], None] = lambda _: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Answer:
        """Answer now; several threads may wait for answers at once.

        Args:
            version_id: a version that was loaded.
            prompt: what is asked.
            options: how to answer.
            on_text: called with each piece of text as soon as it is final.
            should_stop: called at every step; True ends the answer there.

        Raises:
            RequestError: see `prepare`.
        """
        events: queue.SimpleQueue[AnswerPiece | Answer | Exception] = queue.SimpleQueue()
        ticket = self.submit(self.prepare(version_id, prompt, options), events.put)
        try:
            while True:
                self.step()
                if should_stop() and ticket in self._deliveries:
                    self._deliveries[ticket].end(Ended(ticket, "cancelled"))
                while not events.empty():
                    event = events.get()
                    if isinstance(event, Answer):
                        return event
                    if isinstance(event, Exception):
                        raise event
                    on_text(event.text)
        finally:
            self.cancel(ticket)
            self.step()

    def tokens(self, version_id: str, prompt: Prompt) -> list[int]:
        """The tokens that ask a version; they leave room for an answer.

        Raises:
            RequestError: the prompt is too long, or does not fit the chat template.
        """
        place = self._places[version_id]
        if (least := place.prompts.least_tokens(prompt, place.reader.context)) is not None:
            raise self._too_long(f"more than {least}", place)
        try:
            ids = place.prompts.ids(prompt)
        except REFUSALS as error:
            raise RequestError(
                f"messages do not fit the chat template of {self._base_model}: {error}. "
                "Most templates want user and assistant to take turns after one system message.",
                param="messages",
            ) from error
        if not ids:
            raise RequestError("prompt: has no tokens. Send a text.", param="prompt")
        self._require_known(ids)
        if len(ids) >= place.reader.context:
            raise self._too_long(str(len(ids)), place)
        return ids

    def _too_long(self, num_tokens: str, place: Place) -> PromptTooLongError:
        return PromptTooLongError(
            f"messages have {num_tokens} tokens and {self._base_model} reads "
            f"{place.reader.context - 1} before an answer. Shorten them, or leave out old turns."
        )

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids of the base model, special tokens included."""
        self._require_known(ids)
        return str(self._places[BASE_VERSION].tokenizer.decode(list(ids)))

    def loss(self, version_id: str, prompt: Sequence[int], answer: Sequence[int]) -> float:
        """Mean negative log-likelihood of the tokens of an answer after a prompt, in nats."""
        reader = self._places[version_id].reader
        with self._stepping:
            sequence = reader.begin(version_id)
            ids = [*prompt, *answer]
            try:
                logits = reader.read([Span(sequence, ids[:-1], len(answer))])
            finally:
                reader.end(sequence)
        return float(F.cross_entropy(logits.float(), torch.tensor(answer, device=logits.device)))

    def embed(self, version_id: str, prompt: Prompt) -> tuple[float, ...]:
        """The mean of the prompt's last hidden states, scaled to length 1."""
        ids = self.tokens(version_id, prompt)
        with self._stepping:
            hidden = self._places[version_id].reader.hidden(version_id, ids)
        mean = F.normalize(hidden.float().mean(0), dim=0)
        return tuple(mean.tolist())

    @torch.inference_mode()
    def score(self, version_id: str, text: str, max_tokens: int | None = None) -> float:
        """What a reward model makes of a text: the number of its head after the last token.

        Args:
            version_id: a version that was loaded.
            text: as the model reads it, marks of turns included.
            max_tokens: of its beginning; None: as many as the model reads.

        Raises:
            RequestError: the version is no reward model, or the text is empty.
        """
        place = self._places[version_id]
        if place.head is None:
            raise RequestError(NO_HEAD.format(version_id), param="model")
        ids = place.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = ids[: min(max_tokens or place.reader.context, place.reader.context)]
        if not ids:
            raise RequestError("messages: a text has no tokens. Send a text.", param="messages")
        with self._stepping:
            hidden = place.reader.hidden(version_id, ids)
        return float(place.head(hidden[-1:]))

    def _require_known(self, ids: Sequence[int]) -> None:
        most = self._places.vocab_size
        wrong = next((each for each in ids if not 0 <= each < most), None)
        if wrong is not None:
            raise RequestError(
                f"prompt: {wrong} is no token of {self._base_model}, which has {most}.",
                param="prompt",
            )

    def _matcher(self, version_id: str, options: Options) -> Matcher | None:
        if options.constraint is None:
            return None
        tokenizer = self._places[version_id].tokenizer
        # The tokenizer is kept with its compiler, so that no other one gets its identity.
        if id(tokenizer) not in self._compilers:
            compiler = Compiler(tokenizer, self._places.vocab_size)
            self._compilers[id(tokenizer)] = (tokenizer, compiler)
        return self._compilers[id(tokenizer)][1].matcher(options.constraint)
