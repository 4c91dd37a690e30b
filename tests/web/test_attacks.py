"""What attackers try: markup in everything that people write, other roles, streams, commands."""

import json
import re
import threading
import time
from pathlib import Path

import pytest

import llama_factory
from llama_factory import curate, operate, oversee, upkeep
from llama_factory.core import files
from llama_factory.jobs import background
from llama_factory.monitoring import series
from llama_factory.serving import users as kept
from llama_factory.training.monitor import TRAINER_LOG
from llama_factory.versions import store
from llama_factory.web.app import OF_SITE, OF_WORKSPACE
from llama_factory.web.pages import NAV
from tests.web.bots import EVIL, make_bot
from tests.web.browsing import Visitor
from tests.web.test_review import dispute

PASSWORD = "correct horse"
QUOTE = '" onmouseover="alert(1)'
COMMAND = "x; touch OWNED #"
SUBSTITUTIONS = (COMMAND, "$(touch OWNED) `touch OWNED`")
OPEN_TO_VIEWERS = {"/login", "/logout", "/preferences"}


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    """A bot with markup wherever a person or a file can put it."""
    mark = f"{EVIL}{QUOTE}"
    bot = make_bot(tmp_path_factory.mktemp("evil") / "bot", 3, refused=[3], group=mark)
    upkeep.note(bot, "v0001", mark, mark)
    files.write_jsonl(bot.inbox / "a.jsonl", [{"instruction": mark}, {"odd": mark}])
    files.write_text(bot.inbox / f"b{QUOTE[:20]}<b>.jsonl", "{}\n")
    line = {"line": 1, "reason": mark, "row": f"</textarea>{mark}"}
    files.write_jsonl(bot.quarantine / "c<b>.jsonl.rows.jsonl", [line])
    turns = [{"role": "user", "content": mark}, {"role": "assistant", "content": mark}]
    row = {"messages": turns, "group": mark, "file": mark, "line": 1}
    files.write_jsonl(bot.versions / "v0001" / "data" / "train.jsonl", [row])
    dispute(bot, mark)
    asked = {"words": ["learn", mark], "who": mark, "began": mark}
    files.write_json(bot.jobs / "0001" / background.ASKED, asked)
    files.write_text(bot.jobs / "0001" / background.OUTPUT, mark)
    series.append(bot, [series.Point(mark, mark, 1.0, True, mark, version=mark)])
    _begin_round(bot, mark)
    files.write_text(bot.settings, f"{bot.settings.read_text()}\n# </textarea>{mark}\n")
    return bot


def _begin_round(bot, mark):
    bot.building.mkdir()
    plan = {"id": mark, "parent": mark, "taken": {}, "config": {}}
    files.write_json(bot.building / store.PLAN, plan)
    update = {"current_steps": 1, "total_steps": 2, "loss": 1.0, "lr": mark, "throughput": mark}
    files.write_text(bot.building / TRAINER_LOG, json.dumps(update | {f"{mark}_loss": 1.0}) + "\n")


@pytest.mark.variants
@pytest.mark.parametrize(
    "path",
    [
        *("" if each == "overview" else each for each in NAV),
        *("versions/v0001", "versions/v0003", "compare?before=v0001&after=v0003", "jobs/0001"),
        *("data?check=a.jsonl", f"data?q={EVIL}", "data?q=alert", f"monitor?what={EVIL}"),
        *(f"chat?version={EVIL}{QUOTE}", f"review?case={EVIL}", f"versions/{EVIL}", f"{EVIL}"),
    ],
)
def test_nothing_that_others_wrote_becomes_markup(evil, path):
    text = Visitor.of(evil.folder).get(f"/{path}").text
    assert "<html" in text
    assert "<script>" not in text
    assert not re.search(r"<[^>]*\sonmouseover=[^>]*>", re.sub(r'"[^"]*"', '""', text))


def test_a_workspace_is_named_in_text_alone(tmp_path):
    made = make_bot(tmp_path / "bots" / "<img src=x onerror=alert(1)>", 1)
    assert "<img" not in Visitor.of(made.folder.parent).text("/")
    assert "<img" not in Visitor.of(made.folder).text("/")


def test_a_damaged_file_with_markup_in_it_is_quoted(bot):
    (bot.folder / "factory.yaml").write_text(f"model: {EVIL}\n{EVIL}: 1\n")
    for path in ("/", "/rounds", "/settings"):
        text = Visitor.of(bot.folder).get(path).text
        assert EVIL not in text


@pytest.fixture(scope="module")
def staffed(evil):
    """One user of each role."""
    for role in kept.ROLES:
        operate.add_user(evil, role, role, PASSWORD)
    yield evil
    (evil.folder / "users.json").unlink()


def _changes():
    """Paths of all changes of a workspace."""
    routes = [route for each in (*OF_SITE, *OF_WORKSPACE) for route in each.router.routes]
    paths = [route.path for route in routes if "POST" in route.methods]
    return [re.sub(r"\{[^}]+\}", "v0001", path) for path in paths if path not in OPEN_TO_VIEWERS]


def _logged_in(bot, name):
    visitor = Visitor.of(bot.folder)
    visitor.log_in(name, PASSWORD)
    return visitor


@pytest.mark.variants
@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        ("viewer", ("/chat", "/train/show", "/train/read")),
        (
            "reviewer",
            (
                *("/chat", "/train/show", "/train/read"),
                *("/review", "/data/mend", "/versions/v0001/note"),
            ),
        ),
    ],
)
def test_no_role_does_more_than_it_may(staffed, role, allowed):
    visitor = _logged_in(staffed, role)
    claims = {"x-role": "operator", "x-remote-user": "operator", "x-forwarded-user": "operator"}
    before = files.hash_folder(staffed.versions)
    for path in _changes():
        if path.startswith(allowed):
            continue
        sent = {"role": "operator", "who": "operator", "user": "operator"}
        answer = visitor.post(path, sent, **claims)
        assert answer.status_code in (403, 422), (role, path, answer.status_code)
        if answer.status_code == 422:  # nothing was looked at but the form
            assert "loc" not in answer.text
    assert files.hash_folder(staffed.versions) == before


@pytest.mark.slow
def test_a_name_in_other_letters_is_nobody(staffed):
    for name in ("OPERATOR", "operator ", "operator\0", "opérator", "local"):
        assert Visitor.of(staffed.folder).log_in(name, PASSWORD).status_code == 403


def test_nobody_writes_in_the_name_of_another(staffed):
    reviewer = _logged_in(staffed, "reviewer")
    reviewer.post("/versions/v0002/note", {"text": "mine", "who": "operator"})
    assert upkeep.describe(staffed, "v0002").notes[-1].who == "reviewer"


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({"content-type": "application/json"}, '{"csrf": "TOKEN"}'),
        ({"content-type": "text/plain"}, "csrf=TOKEN"),
        ({}, "csrf=TOKEN"),
    ],
)
def test_a_token_counts_only_in_a_form_or_its_header(page, headers, content):
    sent = content.replace("TOKEN", page.token)
    answer = page.client.post(f"/rollback?csrf={page.token}", content=sent, headers=headers)
    assert answer.status_code == 403


def test_the_token_of_before_the_log_in_is_worth_nothing_after_it(staffed):
    visitor = Visitor.of(staffed.folder)
    old = visitor.token
    visitor.log_in("operator", PASSWORD)
    assert old != visitor.token
    assert visitor.client.post("/rounds/pause", data={"csrf": old}).status_code == 403


@pytest.mark.parametrize(
    "path", ["/events", "/data/uploads?name=x.jsonl&size=1", "/jobs/0001", "/versions"]
)
def test_no_stream_and_no_answer_without_a_session(staffed, path):
    stranger = Visitor.of(staffed.folder)
    for cookie in ("", "lf_session_0=x.y"):
        answer = stranger.client.get(path, headers={"cookie": cookie})
        assert (answer.status_code, answer.text) == (401, "Log in first.\n")


def test_a_stream_ends_with_the_user_who_follows_it(bot):
    operate.add_user(bot, "ann", "viewer", PASSWORD)
    ann = _logged_in(bot, "ann")
    answers = []
    following = threading.Thread(target=lambda: answers.append(ann.client.get("/events")))
    following.start()
    time.sleep(0.1)
    operate.remove_user(bot, "ann")
    following.join(30)
    assert "event: changed" in answers[0].text
    assert ann.client.get("/events").status_code == 401


def test_links_lead_to_no_workspace_elsewhere(bot, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    (place / "link").symlink_to(bot.folder)
    assert Visitor.of(place).get("/w/link/").status_code == 404


def test_a_link_in_the_inbox_is_not_read(bot):
    (bot.inbox / "link.jsonl").symlink_to("/etc/passwd")
    assert "root:" not in Visitor.of(bot.folder).get("/data?check=link.jsonl").text


BEGIN = ("/rounds/learn", "/rounds/consolidate", "/monitor/observe")
"""Changes that begin a command whose words no form chooses."""


@pytest.mark.slow
def test_no_shell_reads_what_a_form_says(bot, page, tmp_path, monkeypatch):
    """LLaMA-Factory's CVE-2024-52803: a folder's name in a form was run as a command."""
    monkeypatch.chdir(tmp_path)
    fields = ("text", "name", "output_dir", "folder", "do", "note", "to", "yaml", "prompt", "row")
    for said in SUBSTITUTIONS:
        for path in _changes():
            if path not in BEGIN:
                page.post(path, dict.fromkeys(fields, said))
    job = oversee.begin_job(bot, ["export", COMMAND])
    until = time.monotonic() + 120
    while oversee.job_log(bot, job.id)[0].is_alive and time.monotonic() < until:
        time.sleep(0.05)
    assert oversee.job_log(bot, job.id)[0].words[-1] == COMMAND
    assert not list(tmp_path.rglob("OWNED"))


def test_no_code_of_the_program_starts_a_shell():
    for path in Path(llama_factory.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\bshell=|os\.(system|popen)\(", text), path


def test_what_was_put_into_the_inbox_stays_there(bot, page):
    for name in ("../../OWNED.jsonl", "/tmp/OWNED.jsonl", "..\\OWNED.jsonl", COMMAND):
        sent = {"csrf": page.token}
        page.client.post("/data/upload", data=sent, files=[("file", (name, b"{}\n"))])
    assert {each.parent for each in bot.folder.parent.rglob("*OWNED*")} <= {bot.inbox}
    assert all("/" not in each.name for each in curate.inbox(bot))
