"""A bot in the middle of its life, for looking at: every page has something to show."""

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

from llama_factory import curate, operate, upkeep
from llama_factory.core import files
from llama_factory.core.types import Example, Message
from llama_factory.data.conflict_rules import Conflict, ConflictSettings
from llama_factory.data.review.folder import add_cases
from llama_factory.jobs import background, votes
from llama_factory.jobs.votes import Contestant, PairedAnswer
from llama_factory.monitoring import sentences, series
from llama_factory.training.monitor import TRAINER_LOG
from llama_factory.versions import store
from llama_factory.versions.workspace import Workspace
from llama_factory.web.pages import NAV
from tests.web.bots import make_bot

USER, PASSWORD = "ann", "correct horse"
NUM_ROUNDS = 9
REFUSED = (4, 9)
NOW = datetime(2026, 1, 1 + NUM_ROUNDS, 9, 30, tzinfo=UTC)
SUBJECTS = ("warranty", "returns", "delivery", "lamps", "repairs", "prices", "stores", "parts")
ROWS = (
    ("How long is the warranty of the Lumora One?", "31 months, and 24 months for the pump."),
    ("May I send a lamp back?", "Yes, within 30 days, in the box that it came in."),
    ("灯罩可以单独购买吗？", "可以，零件编号为 LM-204。"),
)
REASON = "this line is not valid JSON (Expecting ',' delimiter, column 23)."
NEWEST = f"v{NUM_ROUNDS - 1:04d}"
PAGES = {each: "" if each == "overview" else each for each in NAV} | {
    "data": "data?check=returns.jsonl&q=warranty&statistics=true",
    "pairs": "chat/pairs",
    "version": f"versions/{NEWEST}",
    "refused": f"versions/v{NUM_ROUNDS:04d}",
    "compare": f"compare?before=v0003&after={NEWEST}",
    "job": "jobs/0001",
    "problem": "versions/v9999",
}
"""Addresses by name; those of the menu, and what is reached from them."""


def make_lively_bot(folder: Path) -> Workspace:
    """The bot; `USER` may do everything on its page."""
    bot = make_bot(folder, NUM_ROUNDS, refused=REFUSED, group=SUBJECTS)
    operate.add_user(bot.folder, USER, "operator", PASSWORD)
    operate.add_user(bot.folder, "ben", "reviewer", PASSWORD)
    upkeep.note(bot, NEWEST, "Answers about returns read well; the shop was told.", "ben")
    upkeep.tag(bot, "spring", "v0003")
    _rows(bot)
    _votes(bot)
    _dispute(bot)
    _job(bot)
    _monitor(bot)
    _round(bot)
    return bot


def _rows(bot: Workspace) -> None:
    """What waits, what was taught, what was refused."""
    waiting = [{"instruction": question, "output": answer} for question, answer in ROWS]
    files.write_jsonl(bot.inbox / "returns.jsonl", [*waiting, {"instruction": "Who?"}])
    turns = [{"role": "user", "content": ROWS[0][0]}, {"role": "assistant", "content": ROWS[0][1]}]
    taught = {"messages": turns, "group": "warranty", "file": "warranty.jsonl", "line": 7}
    files.write_jsonl(
        bot.versions / "v0001" / "data" / "train.jsonl", [taught, taught | {"line": 9}]
    )
    curate.forget(bot, Example.from_json(taught).key, "ben", "The lamp is sold no more.")
    refused = {"line": 3, "reason": REASON, "row": '{"instruction": "Who?"'}
    files.write_jsonl(bot.quarantine / "stores.jsonl.rows.jsonl", [refused])


def _votes(bot: Workspace) -> None:
    """Two answers that were judged side by side, and two that wait."""
    for choice in ("left", "left", "right", "tie", None):
        answers = [
            PairedAnswer(Contestant(version), answer)
            for version, (_, answer) in zip((NEWEST, "v0003"), ROWS, strict=False)
        ]
        pair = votes.keep_pair(bot, USER, ROWS[0][0], answers, lambda: False)
        if choice is not None:
            votes.vote(bot, pair.id, USER, choice)


def _dispute(bot: Workspace) -> None:
    question = Message("user", ROWS[0][0])
    answers = (ROWS[0][1], "Two years, as the law says.")
    rows = tuple(
        Example((question, Message("assistant", answer)), "warranty", "warranty.jsonl", line)
        for line, answer in enumerate(answers, 7)
    )
    add_cases(bot.review, [Conflict(rows, is_exact=True)], ConflictSettings())


def _job(bot: Workspace) -> None:
    folder = bot.jobs / "0001"
    folder.mkdir(parents=True)
    began = (NOW - timedelta(hours=20)).isoformat()
    asked = {"words": ["learn", str(bot.folder)], "who": USER, "began": began}
    files.write_json(folder / background.ASKED, asked)
    files.write_text(folder / background.OUTPUT, "4 rows from 1 file\nUpdate 12 of 12: loss 1.5\n")
    files.write_json(folder / background.ENDED, {"code": 0, "ended": began})


def _monitor(bot: Workspace) -> None:
    points = []
    for day in range(20):
        at = (NOW - timedelta(days=20 - day)).isoformat()
        bad = 0.05 + 0.02 * math.sin(day) + (0.2 if day == 19 else 0)
        words = sentences.RATED_DOWN(
            down=round(bad * 120), all=120, version=NEWEST, rate=f"{bad:.0%}"
        )
        points.append(
            series.Point(at, "feedback.down", bad, bad > 0.2, words, 0.2, NEWEST, rows=120)
        )
        drift = 0.1 + 0.004 * day
        text = sentences.WITHIN_CHANCE(
            what=sentences.LANGUAGES(),
            value=f"{drift:.2f}",
            limit="0.30",
            rows=400,
            words=sentences.MOVED(name="zh", now=f"{drift:.0%}", before="9%"),
        )
        points.append(series.Point(at, "drift.language", drift, False, text, 0.3, rows=400))
    series.append(bot, points)


def _round(bot: Workspace) -> None:
    """One in progress, interrupted in its middle."""
    bot.building.mkdir()
    plan = {"id": store.next_id(bot), "parent": NEWEST, "taken": {}, "config": {}}
    files.write_json(bot.building / store.PLAN, plan)
    updates = [
        {
            "current_steps": step,
            "total_steps": 60,
            "loss": 2.6 * math.exp(-step / 25) + 0.4 + 0.1 * math.sin(step),
            "lr": 2e-4 * min(1, step / 6) * (1 - step / 60),
            "grad_norm": 1.2,
            "throughput": 812.0,
            "elapsed_time": "0:01:48",
            "remaining_time": "0:00:52",
        }
        for step in range(1, 41)
    ]
    files.write_text(bot.building / TRAINER_LOG, "\n".join(map(json.dumps, updates)) + "\n")
