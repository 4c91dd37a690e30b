import fcntl
import getpass
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest
import typer
from typer.testing import CliRunner

from llama_factory.cli.case_view import visible
from llama_factory.cli.review import review as command
from llama_factory.core import files
from llama_factory.core.errors import DataError, VersionError
from llama_factory.core.types import Example, Message
from llama_factory.data.conflict_rules import ConflictSettings, conflict_among
from llama_factory.data.review import folder as review

app = typer.Typer()
app.command()(command)

PROGRAM = """
import sys, typer
from llama_factory.cli.review import review
from llama_factory.core.signals import Stopped, raise_on_signals
app = typer.Typer(); app.command()(review)
raise_on_signals()
try:
    app()
except Stopped as stopped:
    sys.exit(stopped.exit_code)
"""


def row(question, answer, file="a.jsonl", line=1):
    turns = (Message("user", question), Message("assistant", answer))
    return Example(turns, file.split(".")[0], file, line)


WARRANTY = [row("保修多久？", "24个月"), row("保修多久", "12个月", "b.jsonl", 7)]
REFUND = [row("Any refund?", "yes"), row("Any refund?", "Yes.", "b.jsonl"), row("any refund", "no")]
SHIPPING = [row("Is shipping free?", "yes"), row("Is shipping free?", "above 50 euros")]


@pytest.fixture
def folder(tmp_path):
    settings = ConflictSettings(review="all")
    sets = [conflict_among(rows, settings) for rows in (WARRANTY, REFUND, SHIPPING)]
    review.add_cases(tmp_path, sets, settings)
    return tmp_path


def call(folder, *args, typed="", who="alice"):
    done = CliRunner().invoke(app, [str(folder), "--reviewer", who, *args], input=typed)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def said(folder):
    return [each.answer for each in review.accepted_rows(folder)]


def first(folder):
    return next(iter(review.read_book(folder).cases))


def test_cases_are_shown_with_answers_places_counts_and_the_rules_proposal(folder):
    shown = call(folder, typed="s\ns\nq\n")
    assert "1 of 3  conflict" in shown
    assert "waits for its first reviewer" in shown
    assert "保修多久" in shown
    assert "1 row: a.jsonl:1" in shown
    assert "2 rows: a.jsonl:1, b.jsonl:1" in shown
    assert "The rule proposes: keep 1 (majority: 2 of 3 rows give this answer)." in shown
    assert "number: keep (1,3 keeps two)" in shown
    assert "Cases: 3 open. Rows accepted: 0." in shown


def test_cases_are_decided_by_number_by_several_and_by_dropping(folder):
    shown = call(folder, typed="2 # see the manual\n1\n1,2\n")
    assert shown.count("Settled: keep") == 3
    assert "Settled: keep 1 and 2." in shown
    assert "Cases: 3 resolved. Rows accepted: 4." in shown
    assert said(folder) == ["12个月", "yes", "yes", "above 50 euros"]
    log = review.read_book(folder).cases[first(folder)].log
    assert [(vote.reviewer, vote.note) for vote in log] == [("alice", "see the manual")]
    call(folder, "--case", first(folder), "--take-back")
    assert "Settled: drop all." in call(folder, typed="d\n")
    assert said(folder) == ["yes", "yes", "above 50 euros"]


def test_an_answer_is_written_on_a_line_of_its_own(folder):
    call(folder, typed="e\n\ne\n三十个月\nq\n")
    assert said(folder) == ["三十个月"]


def test_what_is_typed_wrong_is_explained_and_asked_again(folder):
    shown = call(folder, typed="9\nx\n\nu\n1\nq\n")
    assert "has no answer 9. Choose from 1 to 2" in shown
    assert "'x' is no choice. Give a number, several as 1,3, `drop` (d)" in shown
    assert "only when two reviewers disagree can it be left unresolved" in shown
    assert said(folder) == ["24个月"]


def test_back_takes_the_last_decision_back_whatever_was_skipped_since(folder):
    shown = call(folder, typed="b\n1\ns\nb\n2\nq\n")
    assert "nothing has been decided yet in this sitting." in shown
    assert shown.count("1 of 3") == 2
    assert "alice took the last decision back" in shown
    assert said(folder) == ["12个月"]


def test_back_does_not_take_back_what_somebody_else_decided_since(folder, monkeypatch):
    refund = review.open_cases(folder)[1]
    typed = iter(["s", "2", "b", "q"])

    def answer(_prompt=""):
        line = next(typed)
        if line == "b":
            review.decide(folder, refund.id, "bob", refund.keep(1))
        return line

    monkeypatch.setattr("builtins.input", answer)
    done = CliRunner().invoke(app, [str(folder), "--reviewer", "alice"])
    assert "somebody has decided that case after you; it cannot be taken back." in done.output
    assert len(review.read_book(folder).cases[refund.id].log) == 2


def test_a_second_reviewer_sees_the_first_and_a_referee_sees_both(folder):
    call(folder, typed="s\n2\nq\n")
    shown = call(folder, typed="s\n1\nq\n", who="bob")
    assert "waits for its second reviewer" in shown
    assert re.search(r"alice \(first reviewer\) decided 2\S+: keep 2\.", shown)
    assert "Noted; it now waits for its referee, another person." in shown
    assert "u: leave unresolved" not in shown
    shown = call(folder, typed="s\nu # nobody knows\n\nq\n", who="carol")
    assert "u: leave unresolved" in shown
    assert "Unresolved: its rows stay out." in shown
    assert "2 open, 1 unresolved" in shown


def test_a_case_that_somebody_settled_meanwhile_is_passed_over(folder, monkeypatch):
    typed = iter(["1", "q"])

    def answer(_prompt=""):
        line = next(typed)
        if line == "1":
            case = review.open_cases(folder)[0]
            review.decide(folder, case.id, "bob", case.keep(2))
        return line

    monkeypatch.setattr("builtins.input", answer)
    done = CliRunner().invoke(app, [str(folder), "--reviewer", "alice"])
    assert "is settled: bob decided" in done.output
    assert "2 of 3" in done.output
    assert said(folder) == ["12个月"]


def test_the_end_of_input_leaves_and_keeps_what_was_decided(folder):
    assert "1 resolved, 2 open" in call(folder, typed="1\n")


def test_one_case_is_decided_without_questions(folder):
    name = first(folder)
    shown = call(folder, "--case", name[:8], "--choose", "2", "--note", "manual, page 3")
    assert "alice (first reviewer) decided" in shown
    assert "“manual, page 3”" in shown
    assert "resolved" in shown
    call(folder, "--case", name, "--take-back")
    call(folder, "--case", name, "--edit", "三十个月")
    assert said(folder) == ["三十个月"]
    call(folder, "--case", name, "--take-back")
    call(folder, "--case", name, "--choose", "drop")
    assert said(folder) == []


def test_one_case_can_be_looked_at(folder):
    shown = call(folder, "--case", first(folder))
    assert "24个月" in shown
    assert len(review.open_cases(folder)) == 3


def test_json_holds_the_cases_that_are_open(folder):
    name = first(folder)
    cases = json.loads(call(folder, "--json"))
    assert [each["id"] for each in cases] == [each.id for each in review.open_cases(folder)]
    assert cases[1]["options"][0] == {
        "number": 1,
        "text": "yes",
        "count": 2,
        "places": ["a.jsonl:1", "b.jsonl:1"],
        "by": "",
    }
    assert (cases[0]["state"], cases[0]["level"], cases[0]["log"]) == ("open", "first", [])
    now = json.loads(call(folder, "--case", name, "--choose", "1", "--json"))
    assert (now["state"], now["log"][0]["reviewer"]) == ("resolved", "alice")


def test_the_list_has_one_line_a_case(folder):
    shown = call(folder, "--list")
    assert "保修多久？" in shown
    assert "Any refund?" in shown
    assert "Cases: 3 open." in shown


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--choose", "1"], "which case is meant? Name it with --case ID; --list shows them."),
        (["--case", "zz"], "there is no case 'zz' among 3."),
        (["--case", "ID", "--choose", "7"], "has no answer 7. Choose from 1 to 2"),
        (["--case", "ID", "--choose", "best"], "'best' is no choice."),
        (["--case", "ID", "--edit", ""], "must not be empty"),
        (["--case", "ID", "--edit", "x", "--choose", "1"], "--choose, --edit and --take-back excl"),
        (["--case", "ID", "--take-back"], "nobody has decided it, nothing to take back"),
    ],
)
def test_wrong_flags_are_explained(folder, args, told):
    args = [first(folder) if each == "ID" else each for each in args]
    with pytest.raises(DataError, match=re.escape(told)):
        call(folder, *args)


def test_a_reviewer_without_a_name_is_refused(folder):
    with pytest.raises(DataError, match="the reviewer's name is empty"):
        call(folder, typed="1\n", who=" ")


def test_the_login_name_is_the_reviewer(folder, monkeypatch):
    monkeypatch.setenv("LOGNAME", "wang")
    CliRunner().invoke(app, [str(folder)], input="1\n")
    assert review.read_book(folder).cases[first(folder)].log[0].reviewer == "wang"


def test_who_has_no_login_name_must_give_one(folder, monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 987654)
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    done = CliRunner().invoke(app, [str(folder)])
    assert str(done.exception) == "this user has no login name. Give one with --reviewer NAME."


def test_a_folder_that_is_no_workspace_is_refused(tmp_path):
    with pytest.raises(VersionError, match="is not a workspace: it has no factory.yaml"):
        call(tmp_path)


def test_a_workspace_takes_in_the_rows_in_quarantine(tmp_path):
    (tmp_path / "factory.yaml").write_text("{}")
    bad = {"line": 3, "reason": "'output' is empty.", "row": '{"instruction": "a", "output": ""}'}
    files.write_jsonl(tmp_path / "quarantine/faq.jsonl.rows.jsonl", [bad])
    typed = 'e\n{"instruction": "a"\ne\n{"instruction": "a", "output": "b"}\n'
    shown = call(tmp_path, typed=typed)
    assert "1 of 1  refused" in shown
    assert "faq.jsonl:3" in shown
    assert "Refused: 'output' is empty." in shown
    assert "this is still not valid JSON" in shown
    assert "Settled: keep 1." in shown
    assert said(tmp_path / "review") == ["b"]
    case_id = first(tmp_path / "review")
    assert "─ 1  written by alice ─" in call(tmp_path, "--case", case_id)
    assert call(tmp_path) == "Cases: 1 resolved. Rows accepted: 1.\n"


def test_damaged_lines_are_told(folder):
    with (folder / review.DECISIONS).open("w") as file:
        file.write('{"case": "')
    assert f"{folder}/decisions.jsonl:1: this line is half-written" in call(folder, "--list")


def test_data_cannot_write_to_the_screen(tmp_path):
    assert visible("a\x1b[2J\u202eb\n\tc") == "a\\u001b[2J\\u202eb\n\tc"
    rows = [row("q \x1b[2J [red]?", "yes"), row("q \x1b[2J [red]?", "[bold]no[/] \x07")]
    review.add_cases(tmp_path, [conflict_among(rows, ConflictSettings())], ConflictSettings())
    shown = call(tmp_path, typed="q\n")
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "[bold]no[/] \\u0007" in shown


def test_every_wording_of_the_question_is_shown(tmp_path):
    near = "How do I return the opened bottle of {}shampoo?"
    rows = [row(near.format("the "), "yes"), row(near.format(""), "no", "b.jsonl", 3)]
    review.add_cases(tmp_path, [conflict_among(rows, ConflictSettings())], ConflictSettings())
    shown = call(tmp_path, typed="q\n")
    assert "Question A, as in a.jsonl:1" in shown
    assert "Question B, as in b.jsonl:3" in shown
    assert "1  to question A, 1 row: a.jsonl:1" in shown
    assert "2  to question B, 1 row: b.jsonl:3" in shown
    name = first(tmp_path)
    shown = call(tmp_path, "--case", name, "--edit", "Only if unopened.")
    assert "3  to all questions, written by alice" in shown
    assert near.format("the ") in shown
    assert near.format("") in shown


def _of_no_size(environment):
    """Without the size of another terminal, which would be taken before this one's own."""
    return {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}


class Terminal:
    """The command in a pseudo terminal, 110 columns wide."""

    def __init__(self, folder, **environment):
        self.screen, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 110, 0, 0))
        self.shown = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder), "--reviewer", "alice"],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**_of_no_size(os.environ), "TERM": "xterm-256color", **environment},
        )
        os.close(inner)

    def read_until(self, text):
        """Wait for a text on the screen, colours left out."""
        end = time.monotonic() + 40
        while text not in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.shown):
            assert time.monotonic() < end, self.shown
            if select.select([self.screen], [], [], 1)[0]:
                self.shown += os.read(self.screen, 65536).decode(errors="replace")

    def type(self, text):
        os.write(self.screen, text.encode())

    def close(self):
        os.close(self.screen)


@pytest.mark.slow
def test_in_a_terminal_differences_are_highlighted_and_control_c_loses_nothing(folder):
    terminal = Terminal(folder)
    terminal.read_until("> ")
    assert "\x1b[1;7m24" in terminal.shown
    assert "╮╭─ 2  1 row: b.jsonl:7" in terminal.shown, "two answers stand side by side"
    terminal.type("2\r")
    terminal.read_until("2 of 3")
    terminal.read_until("The rule proposes")
    terminal.type("\x03")
    terminal.read_until("Your 1 decisions are saved.")
    assert terminal.process.wait(20) == 128 + signal.SIGINT
    terminal.close()
    assert said(folder) == ["12个月"]


@pytest.mark.slow
def test_in_a_terminal_an_answer_is_written_in_the_editor(folder, tmp_path):
    editor = tmp_path / "editor.sh"
    editor.write_text('#!/bin/sh\nsed -i "s/24/36/" "$1"\ntouch -d "+1 hour" "$1"\n')
    editor.chmod(0o755)
    terminal = Terminal(folder, EDITOR=str(editor), VISUAL="")
    terminal.read_until("> ")
    terminal.type("e\r")
    terminal.read_until("Settled: keep 3.")
    terminal.read_until("2 of 3")
    terminal.type("q\r")
    terminal.read_until("Rows accepted: 1.")
    assert terminal.process.wait(20) == 0
    terminal.close()
    assert said(folder) == ["36个月"]
