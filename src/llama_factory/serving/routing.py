"""Which of two versions a caller gets: a fraction of callers, each always the same one. Pure."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from llama_factory.serving.outcome import Caller
from llama_factory.versions.releases import Standing

MAX_CONVERSATIONS = 100_000
"""Conversations remembered; the one that is silent longest is forgotten first."""


@dataclass(frozen=True)
class ConversationPlace:
    """Where a conversation is.

    Attributes:
        version_id: answers it.
        trial: the canary during which it began; None where it began before or without one.
    """

    version_id: str
    trial: Standing | None = None


def unit_of(caller: Caller, sticky: Literal["caller", "conversation"]) -> str:
    """What stays on one version: a user, else a key, else a conversation."""
    if sticky == "caller" and caller.user:
        return f"user\n{caller.key_id}\n{caller.user}"
    if sticky == "caller" and caller.key_id:
        return f"key\n{caller.key_id}"
    return f"conversation\n{caller.conversation}"


def is_chosen(unit: str, standing: Standing, fraction: float) -> bool:
    """Whether a unit belongs to the fraction that the candidate answers.

    Another candidate, or the same one tried again, chooses others: nobody is always the first.
    """
    return fraction_of(f"{standing.candidate}\n{standing.since}\n{unit}") < fraction


def fraction_of(text: str) -> float:
    """A number from 0 to 1 that looks drawn and is always the same for a text."""
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


class ConversationPlaces:
    """Where conversations are, as far as this server has answered them."""

    def __init__(self, max_kept: int = MAX_CONVERSATIONS) -> None:
        self._places: OrderedDict[str, ConversationPlace] = OrderedDict()
        self._max_kept = max_kept

    def __len__(self) -> int:
        return len(self._places)

    def get(self, conversation: str) -> ConversationPlace | None:
        """Where a conversation is; None where it is not known."""
        return self._places.get(conversation)

    def put(self, conversation: str, place: ConversationPlace) -> None:
        """Where a conversation is from now on."""
        self._places[conversation] = place
        self._places.move_to_end(conversation)
        if len(self._places) > self._max_kept:
            self._places.popitem(last=False)


def choose(
    conversations: ConversationPlaces,
    caller: Caller,
    trial: tuple[Standing, float],
    sticky: Literal["caller", "conversation"],
) -> str:
    """The version that answers a caller who asks for production while a candidate is tried.

    A conversation that began stays where it is, as long as its version is one of the two.

    Args:
        conversations: what is known; the caller's is noted.
        caller: who asks.
        trial: the two versions, and the fraction of callers that the candidate answers.
        sticky: what stays on one version.
    """
    standing, fraction = trial
    known = conversations.get(caller.conversation)
    is_under_way = known is not None and not caller.begins
    if known and is_under_way and known.version_id in (standing.production, standing.candidate):
        conversations.put(caller.conversation, known)
        return known.version_id
    is_candidate = is_chosen(unit_of(caller, sticky), standing, fraction)
    version_id = standing.candidate if is_candidate else standing.production
    # What goes on, and is not known, began before: it is answered and not counted.
    counted = standing if caller.begins else None
    conversations.put(caller.conversation, ConversationPlace(version_id, counted))
    return version_id
