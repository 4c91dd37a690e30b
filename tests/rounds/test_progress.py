"""A round's log is read on from where it was read to; a new round's log is read from its start."""

import json

import pytest

from llama_factory.core import files
from llama_factory.rounds.progress import RoundView, UpdateLog
from llama_factory.training.monitor import TRAINER_LOG
from llama_factory.versions import store
from tests.web.bots import make_bot


def lines(*numbers):
    return "".join(json.dumps({"current_steps": n, "loss": 1.0}) + "\n" for n in numbers)


def steps(updates):
    return [each["current_steps"] for each in updates]


def test_only_new_lines_are_parsed(tmp_path, monkeypatch):
    path, log = tmp_path / "log", UpdateLog(tmp_path / "log", 3)
    assert log.read() == ()
    path.write_text(lines(1, 2))
    assert steps(log.read()) == [1, 2]
    parsed = []
    real = json.loads
    monkeypatch.setattr(
        "llama_factory.rounds.progress.json.loads", lambda text: parsed.append(text) or real(text)
    )
    with path.open("a") as file:
        file.write(lines(3, 4))
    assert steps(log.read()) == [2, 3, 4]
    assert len(parsed) == 2


def test_a_line_that_is_being_written_is_read_when_it_is_whole(tmp_path):
    path, log = tmp_path / "log", UpdateLog(tmp_path / "log", 9)
    whole = lines(1, 2)
    path.write_text(whole[:-5])
    assert steps(log.read()) == [1]
    path.open("a").write(whole[-5:])
    assert steps(log.read()) == [1, 2]


@pytest.mark.parametrize("rewrite", [files.write_text, lambda path, text: path.write_text(text)])
def test_a_log_that_was_written_anew_is_read_anew(tmp_path, rewrite):
    path, log = tmp_path / "log", UpdateLog(tmp_path / "log", 9)
    path.write_text(lines(1, 2, 3))
    log.read()
    rewrite(path, lines(7))
    assert steps(log.read()) == [7]
    path.unlink()
    assert log.read() == ()


def test_of_a_very_long_log_the_end_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("llama_factory.rounds.progress.TAIL_BYTES", 100)
    path, log = tmp_path / "log", UpdateLog(tmp_path / "log", 99)
    path.write_text(lines(*range(50)))
    assert steps(log.read()) == [48, 49]


def test_another_round_has_another_course(tmp_path):
    bot = make_bot(tmp_path / "bot", 1)
    view = RoundView(bot, 9)
    assert view.progress() is None

    def begin(text):
        bot.building.mkdir(exist_ok=True)
        plan = {"id": store.next_id(bot), "parent": "v0001"}
        files.write_json(bot.building / store.PLAN, plan)
        (bot.building / TRAINER_LOG).write_text(text)

    begin(lines(1, 2))
    first = view.progress()
    assert (first.id, first.stage, steps(first.updates)) == ("v0002", "training", [1, 2])
    begin(lines(5, 6))
    assert steps(view.progress().updates) == [5, 6]
