import json
import multiprocessing
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from llama_factory.core.types import Message
from llama_factory.data.conflict_rules import ConflictSettings
from llama_factory.data.review import folder as review
from llama_factory.data.review.cases import Choice
from tests.data.disputes import DROP, RETURNS, WARRANTY, add, case, one, row, said


def test_every_decision_is_logged_with_who_and_when(tmp_path):
    found = one(tmp_path)
    review.decide(tmp_path, found.id, "王芳", found.keep(2), "见手册")
    line = json.loads((tmp_path / review.DECISIONS).read_text(encoding="utf-8"))
    when = datetime.fromisoformat(line.pop("when"))
    assert when.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - when) < timedelta(minutes=1)
    assert line == {
        "case": found.id,
        "level": "first",
        "reviewer": "王芳",
        "choice": {"keep": [found.options[1].id]},
        "note": "见手册",
    }


def test_the_files_only_grow(tmp_path):
    found = one(tmp_path, RETURNS)
    seen = b""
    for who, choice in (("a", DROP), ("b", found.keep(1)), ("c", found.keep(2))):
        review.decide(tmp_path, found.id, who, choice)
        now = (tmp_path / review.DECISIONS).read_bytes()
        assert now.startswith(seen)
        assert len(now) > len(seen)
        seen = now


def test_every_place_a_crash_can_tear_the_last_line_loses_only_that_line(tmp_path):
    found = one(tmp_path, RETURNS)
    review.decide(tmp_path, found.id, "alice", found.keep(2))
    path = tmp_path / review.DECISIONS
    whole = path.read_bytes()
    review.decide(tmp_path, found.id, "bob", found.keep(2), "说明")
    both = path.read_bytes()
    for end in range(len(whole) + 1, len(both) - 1):
        path.write_bytes(both[:end])
        assert case(tmp_path, found).level == "second"
        damaged = review.summary(tmp_path).damaged
        assert damaged == ("decisions.jsonl:2: this line is half-written and is left out.",)
    path.write_bytes(both[:-1])
    assert case(tmp_path, found).state == "resolved", "only the end of the line is missing"


def test_after_a_torn_line_work_goes_on(tmp_path):
    found, other = add(tmp_path, RETURNS, WARRANTY)
    review.decide(tmp_path, found.id, "alice", found.keep(2))
    path = tmp_path / review.DECISIONS
    path.write_bytes(path.read_bytes()[:-20])
    review.decide(tmp_path, other.id, "bob", other.keep(1))
    assert case(tmp_path, found).level == "first"
    assert case(tmp_path, other).state == "resolved"
    assert review.summary(tmp_path).damaged == (
        "decisions.jsonl:1: this line is half-written and is left out.",
    )


def test_decisions_outlive_a_case_whose_own_line_was_torn(tmp_path):
    found = one(tmp_path)
    review.decide(tmp_path, found.id, "alice", found.keep(2))
    path = tmp_path / review.CASES
    path.write_bytes(path.read_bytes()[:-9])
    assert review.open_cases(tmp_path) == []
    assert add(tmp_path, WARRANTY)[0].state == "resolved"
    assert said(tmp_path) == ["12个月"]


def test_a_rule_does_not_overrule_what_people_decided_about_a_case_whose_line_was_torn(tmp_path):
    found = one(tmp_path, RETURNS)
    review.decide(tmp_path, found.id, "alice", found.keep(2))
    (tmp_path / review.CASES).write_bytes(b"")
    again = one(tmp_path, RETURNS, ConflictSettings())
    assert [vote.reviewer for vote in again.log] == ["alice"]


def test_a_line_changed_by_hand_is_left_out_and_told(tmp_path):
    found = one(tmp_path)
    with (tmp_path / review.DECISIONS).open("w") as file:
        file.write(f'{{"case": "{found.id}"}}\n[]\n\n')
    assert case(tmp_path, found).level == "first"
    assert review.summary(tmp_path).damaged == (
        "decisions.jsonl:1: this line is not as this program writes it and is left out.",
        "decisions.jsonl:2: this line is not as this program writes it and is left out.",
    )


def parts(value, path=()):
    """Paths of everything in a JSON value."""
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, part in items:
        yield (*path, key)
        yield from parts(part, (*path, key))


def changed(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


@pytest.mark.variants
@pytest.mark.parametrize("name", [review.CASES, review.DECISIONS])
@pytest.mark.parametrize("junk", [None, -1, "x", [], {}, [None], [{}]], ids=str)
def test_no_line_changed_by_hand_stops_the_review(tmp_path, name, junk):
    found, other = add(tmp_path, RETURNS, WARRANTY)
    review.decide(tmp_path, found.id, "alice", found.keep(2))
    path = tmp_path / name
    first, *more = path.read_text(encoding="utf-8").splitlines(keepends=True)
    line = json.loads(first)
    for place in parts(line):
        path.write_text(json.dumps(changed(line, place, junk)) + "\n" + "".join(more))
        book = review.read_book(tmp_path)
        assert other.id in book.cases
        assert [option.text for option in book.cases[other.id].options] == ["24个月", "12个月"]
        review.summary(tmp_path)
        assert other.id in [each.id for each in review.open_cases(tmp_path, "bob")]


@pytest.mark.slow
def test_a_disk_that_fills_up_loses_what_is_being_decided_and_nothing_else(tmp_path):
    found, other = add(tmp_path, RETURNS, WARRANTY)
    review.decide(tmp_path, found.id, "alice", found.keep(2))
    before = (tmp_path / review.DECISIONS).read_bytes()
    program = f"""
import resource, sys
from pathlib import Path
from llama_factory.core.errors import VersionError
from llama_factory.data.review import folder as review
from llama_factory.data.review.cases import Choice
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 40}, {len(before) + 40}))
try:
    review.decide(Path(sys.argv[1]), "{other.id}", "bob", Choice())
except VersionError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert "the disk is full while adding to decisions.jsonl" in done.stdout
    assert (tmp_path / review.DECISIONS).read_bytes() == before
    assert case(tmp_path, other).state == "open"


@pytest.mark.slow
def test_what_a_rule_settled_is_never_asked_because_of_a_crash(tmp_path):
    program = """
import resource, sys
from pathlib import Path
from llama_factory.core.errors import VersionError
from llama_factory.data.review import folder as review
from llama_factory.data.conflict_rules import ConflictSettings
from tests.data.disputes import RETURNS, conflict
resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400))
try:
    review.add_cases(Path(sys.argv[1]), [conflict(RETURNS)], ConflictSettings())
except VersionError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert "the disk is full while adding to cases.jsonl" in done.stdout
    assert review.summary(tmp_path).states == {}
    found = one(tmp_path, RETURNS, ConflictSettings())
    assert (found.state, len(found.log)) == ("resolved", 1)


def vote(folder, case_id, name, ready):
    ready.wait(30)
    for number in range(20):
        choice = Choice(edited=f"answer {number} of {name}")
        found = review.read_book(folder).case(case_id[number])
        review.decide(folder, found.id, f"{name}", choice)


@pytest.mark.slow
def test_two_who_decide_at_the_same_time_are_first_and_second(tmp_path):
    sets = [[row(f"question {n}", "a"), row(f"question {n}", "b")] for n in range(20)]
    settings = ConflictSettings(always_second=True)
    ids = [each.id for each in add(tmp_path, *sets, settings=settings)]
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(2)
    workers = [
        context.Process(target=vote, args=(tmp_path, ids, name, ready)) for name in ("ann", "ben")
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(50)
    assert [worker.exitcode for worker in workers] == [0, 0]
    for each in review.read_book(tmp_path).cases.values():
        assert [said.level for said in each.log] == ["first", "second"]
        assert {said.reviewer for said in each.log} == {"ann", "ben"}
        assert each.level == "referee"
    assert review.summary(tmp_path).damaged == ()


def test_the_summary_counts_cases_levels_and_people(tmp_path):
    first, second = add(tmp_path, RETURNS, WARRANTY)
    review.decide(tmp_path, first.id, "alice", first.keep(2))
    review.decide(tmp_path, second.id, "alice", second.keep(1))
    found = review.summary(tmp_path)
    assert found.states == {"open": 1, "resolved": 1}
    assert found.levels == {"second": 1}
    assert found.reviewers == {"alice": 2}
    assert (found.num_rows, found.damaged) == (1, ())


def test_a_folder_that_is_not_there_has_no_cases(tmp_path):
    assert review.open_cases(tmp_path / "none") == []
    assert list(review.accepted_rows(tmp_path / "none")) == []
    assert review.summary(tmp_path / "none").states == {}


def test_rows_of_every_kind_survive_the_disk(tmp_path):
    pairs = [
        row("q", "a", rejected=Message("assistant", "b"), images=("x.png",), weight=2.0),
        row("q", "b", rejected=Message("assistant", "a"), images=("x.png",), weight=2.0),
    ]
    tags = [row("q", "a", is_desirable=True), row("q", "a", is_desirable=False)]
    found, other = add(tmp_path, pairs, tags)
    assert [option.text for option in found.options] == ["a\nbetter than: b", "b\nbetter than: a"]
    assert [option.text for option in other.options] == ["a\n(liked)", "a\n(disliked)"]
    review.decide(tmp_path, found.id, "alice", found.keep(2))
    review.decide(tmp_path, other.id, "alice", other.keep(2))
    assert list(review.accepted_rows(tmp_path)) == [pairs[1], tags[1]]
