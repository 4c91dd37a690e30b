"""OpenAI rows: a list of messages with role and content."""

from collections.abc import Mapping
from typing import Any

from llama_factory.core.errors import suggest
from llama_factory.core.types import Message
from llama_factory.data.formats import BadRowError, Format, register, text_of

ROLES = ("system", "user", "assistant")


def parse(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """An optional system message, then user and assistant in turn, ending with the assistant."""
    listed = row["messages"]
    if not isinstance(listed, list) or not listed:
        raise BadRowError(
            "'messages' must be a list of at least one user and one assistant message."
        )
    turns = [_turn(message, number) for number, message in enumerate(listed, 1)]
    talk = turns[1:] if turns[0].role == "system" else turns
    for number, turn in enumerate(talk):
        wanted = ROLES[1 + number % 2]
        if turn.role != wanted:
            place = number + 1 + len(turns) - len(talk)
            raise BadRowError(f"message {place} is from '{turn.role}' where '{wanted}' must speak.")
    if not talk or talk[-1].role != "assistant":
        raise BadRowError("the last message must be the assistant's answer, it is missing.")
    return tuple(turns)


def _turn(message: Any, number: int) -> Message:
    if not isinstance(message, dict):
        raise BadRowError(f"message {number} must be an object with role and content.")
    role = message.get("role")
    if role not in ROLES:
        raise BadRowError(f"message {number}: role '{role}' is unknown.{suggest(str(role), ROLES)}")
    try:
        return Message(role, text_of(message, "content"))
    except BadRowError as error:
        raise BadRowError(f"message {number}: {error}") from None


register(Format(name="messages", fields=("messages",), required=("messages",), parse=parse))
