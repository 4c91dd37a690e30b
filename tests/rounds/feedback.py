"""What users said of a workspace's answers, as the server writes it."""

import json
import uuid

from llama_factory.core.types import Example, Message
from llama_factory.data.review import folder as review
from llama_factory.data.review.cases import Choice
from llama_factory.data.review.feedback import judge_feedback, note_feedback
from llama_factory.data.sources.feedback import Feedback, read_feedback

DAY = "2026-11-30"


def give(bot, question, given, correction="", rating="down", **more):
    """One feedback, appended as the server does; returns its id."""
    turns = (Message("user", question), Message("assistant", given))
    each = Feedback(
        id=uuid.uuid4().hex,
        completion_id=more.pop("completion_id", f"chatcmpl-{uuid.uuid4().hex}"),
        rating=rating,
        when=f"{DAY}T10:00:00+00:00",
        version=more.pop("version", "v0000"),
        row=Example(turns, "", "", 0),
        correction=correction,
        **more,
    )
    bot.feedback.mkdir(exist_ok=True)
    with (bot.feedback / f"feedback-{DAY}.jsonl").open("a") as file:
        file.write(json.dumps(each.to_json()) + "\n")
    return each.id


def decide(bot, feedback_id, choice=None, reviewer="ann"):
    """Accept feedback as it is, or as a reviewer wants it."""
    note_feedback(bot.review, read_feedback(bot.feedback))
    chosen = Choice((claim_of(bot, feedback_id),)) if choice is None else choice
    return review.decide(bot.review, feedback_id, reviewer, chosen)


def claim_of(bot, feedback_id):
    from llama_factory.data.review.case_book import read_book

    return read_book(bot.review).case(feedback_id).options[0].id


def states(bot):
    judged = judge_feedback(bot.feedback, bot.review)
    return {each.feedback.id: each.state for each in judged}
