"""The whole way: conversations over the API, thumbs, corrections, review, a round, its report."""

from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from llama_factory import operate, run
from llama_factory.core.progress import SILENT
from llama_factory.reports import page
from llama_factory.versions.workspace import Workspace
from tests.rounds.rounds import SETTINGS
from tests.serving.running import health, make_engine, serving, wait_until
from tests.serving.test_feedback import ask, say

EAGER = {
    "training.epochs": 150,
    "training.learning_rate": 0.02,
    "training.schedule": "constant",
    "model.adapter.rank": 8,
    "evaluation.max_new_tokens": 16,
    "strategies": "naive",
    "gate.min_complaints": 0.75,
}
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight")


@pytest.fixture
def bot(tiny_model: Path, tmp_path: Path) -> Workspace:
    workspace = run.init(tmp_path / "bot", str(tiny_model))
    workspace.settings.write_text(SETTINGS.format(model=tiny_model))
    return workspace


def converse(client: OpenAI) -> None:
    """30 conversations: 8 are corrected, the others get thumbs."""
    for number in range(30):
        answer = ask(client, f"What is {number}?", temperature=0, user=f"u{number}")
        body: Any = {"rating": "down" if number % 5 == 0 else "up"}
        if number < 8:
            body = {"rating": "down", "correction": WORDS[number]}
        assert say(client, answer, **body).status_code == 200


def review(bot: Workspace) -> None:
    """All corrections are accepted, one of them with another answer."""
    waiting = operate.feedback(bot.folder)
    assert {row.judged.state for row in waiting} == {"waiting"}
    wrong, *right = [row.judged.feedback.id for row in waiting if row.judged.is_correction]
    operate.decide_feedback(bot.folder, right, "ann", accept=True)
    operate.decide_feedback(bot.folder, [wrong], "ann", accept=True, answer="zero")


@pytest.mark.slow
def test_eight_complaints_of_thirty_conversations_are_answered_rightly_in_the_end(
    bot: Workspace, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "_drawn", lambda *_: (b"", b""))
    with serving(bot, make_engine(tiny_model)) as client:
        converse(client)
        assert run.learn(bot.folder, EAGER, SILENT) is None  # nobody has accepted anything
        review(bot)
        done = run.learn(bot.folder, EAGER, SILENT)
        assert done is not None
        assert done.is_released
        complaints = done.version.report["complaints"]
        assert (complaints["num"], complaints["num_right_before"]) == (8, 0)
        assert complaints["num_right"] >= 6
        text = (done.version.folder / "report.html").read_text()
        assert f"{complaints['num_right']} of 8 complaints are answered rightly now" in text

        wait_until(lambda: health(client)["version"] == done.version.id, "the release")
        for row in complaints["rows"]:
            if row["is_right"]:
                answer = ask(client, row["question"], temperature=0)
                assert answer.choices[0].message.content == row["after"]
                assert answer.model == done.version.id

    rows = operate.feedback(bot.folder)
    assert sum(row.taught_in == done.version.id for row in rows) == 8
    assert run.learn(bot.folder, EAGER, SILENT) is None
