"""Who gets in, what a change must carry, and what cannot be named."""

import re

import pytest
from fastapi.routing import APIRoute

from llama_factory import operate, upkeep
from llama_factory.core.errors import ServingError
from llama_factory.serving import users as kept
from llama_factory.versions import releases
from llama_factory.web.app import OF_SITE, OF_WORKSPACE, create_web
from llama_factory.web.server import WebOptions, serve_web
from tests.web.browsing import Visitor

PASSWORD = "correct horse"


@pytest.fixture
def people(bot):
    """One user of each role."""
    for role in kept.ROLES:
        operate.add_user(bot, role, role, PASSWORD)
    return bot


def visitor(bot, name="", **options):
    made = Visitor.of(bot.folder, **options)
    if name:
        assert made.log_in(name, PASSWORD).status_code == 303
    return made


def all_changes():
    """The paths of all routes that change something."""
    routers = [each.router for each in (*OF_SITE, *OF_WORKSPACE)]
    routes = [each for router in routers for each in router.routes if isinstance(each, APIRoute)]
    paths = [each.path for each in routes if "POST" in each.methods]
    assert len(paths) > 15
    return [re.sub(r"\{[^}]+\}", "v0001", path) for path in paths]


def test_no_change_is_made_without_the_token_of_the_session(bot, page):
    before = releases.read(bot.releases)
    other = Visitor.of(bot.folder)
    page.get("/")
    for path in all_changes():
        for sent in ({}, {"csrf": "0" * 64}, {"csrf": other.token}):
            answer = page.client.post(path, data=sent)
            assert answer.status_code in (403, 422), path
    assert releases.read(bot.releases) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
    ],
)
def test_no_change_is_made_for_another_page(page, headers):
    assert page.post("/rollback", **headers).status_code == 403


def test_changes_of_this_page_pass_also_behind_a_proxy(bot):
    page = Visitor.of(bot.folder, hosts=("bots.example",))
    headers = {"origin": "https://bots.example", "x-forwarded-host": "bots.example"}
    assert page.post("/rollback", **headers).status_code == 303
    assert page.post("/preferences", **{"sec-fetch-site": "same-origin"}).status_code == 303


def test_only_get_and_post_are_answered(page):
    assert page.client.put("/rollback").status_code == 403
    assert page.client.delete("/").status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "10.0.0.5", ""])
def test_a_name_that_was_rebound_gets_nothing(page, host):
    assert page.get("/", host=host).status_code == 421


def test_a_proxy_opens_no_page_without_a_log_in_to_others(bot, page):
    headers = {"x-forwarded-host": "bots.example"}
    assert page.get("/", **headers).status_code == 421
    operate.add_user(bot, "ann", "viewer", PASSWORD)
    assert "/login" in page.get("/", **headers).headers["location"].replace("./", "/")


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000"])
def test_names_of_this_machine_are_answered(page, host):
    assert page.get("/", host=host).status_code == 200


def test_a_name_may_be_allowed(bot):
    assert Visitor.of(bot.folder, hosts=("bots.example",)).get("/", host="bots.example").is_success


def test_the_network_is_refused_without_users(bot):
    with pytest.raises(ServingError, match="users add NAME"):
        serve_web(bot.folder, WebOptions(host="0.0.0.0"), print)


def test_with_users_nobody_gets_in_without_a_log_in(people):
    stranger = visitor(people)
    answer = stranger.get("/versions/v0001")
    assert (answer.status_code, answer.headers["location"]) == (
        303,
        "../login?then=versions/v0001",
    )
    for path in ("/", "/rounds", "/settings", "/events", "/nothing"):
        assert stranger.client.get(path).status_code == 401
    assert stranger.get("/static/web.css").status_code == 200
    assert "v0003" not in stranger.get("/login").text


def test_who_logs_in_comes_to_the_page_that_was_asked_for(people):
    guest = visitor(people)
    data = {"user": "viewer", "password": PASSWORD, "then": "versions/v0001"}
    answer = guest.post("/login", data)
    assert answer.headers["location"] == "./versions/v0001"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert guest.get("/versions/v0001").status_code == 200


@pytest.mark.parametrize("then", ["https://evil.example", "//evil.example", "../x", "/etc", "a:b"])
def test_a_log_in_leads_nowhere_else(people, then):
    guest = visitor(people)
    answer = guest.post("/login", {"user": "viewer", "password": PASSWORD, "then": then})
    assert answer.headers["location"] == "./"


def test_roles_hold(people):
    viewer, reviewer = visitor(people, "viewer"), visitor(people, "reviewer")
    operator = visitor(people, "operator")
    assert viewer.post("/rollback").status_code == 403
    assert viewer.post("/versions/v0001/note", {"text": "x"}).status_code == 403
    assert viewer.get("/settings").status_code == 403
    assert reviewer.post("/versions/v0001/note", {"text": "x"}).status_code == 303
    assert reviewer.post("/rollback").status_code == 403
    assert "rollback" not in viewer.text("/")
    assert operator.post("/rollback").status_code == 303
    assert upkeep.describe(people, "v0001").notes[0].who == "reviewer"


@pytest.mark.slow
def test_wrong_passwords_are_made_to_wait(people):
    guest = visitor(people)
    for _ in range(kept.FREE_TRIES):
        assert guest.log_in("operator", "wrong password").status_code == 403
    assert guest.log_in("operator", PASSWORD).status_code == 429
    assert guest.log_in("viewer", PASSWORD).status_code == 303


def test_waits_grow_and_end():
    now = [0.0]
    limits = kept.LoginLimits(lambda: now[0])
    for _ in range(kept.FREE_TRIES):
        assert limits.wait("ann") == 0
        limits.note("ann", is_right=False)
    assert limits.wait("ann") == kept.FIRST_WAIT_SECONDS
    now[0] = 31.0
    assert limits.wait("ann") == 0
    limits.note("ann", is_right=False)
    assert limits.wait("ann") == 2 * kept.FIRST_WAIT_SECONDS
    limits.note("ann", is_right=True)
    assert limits.wait("ann") == 0


def test_a_session_ends_with_its_user_password_or_log_out(people):
    viewer, reviewer = visitor(people, "viewer"), visitor(people, "reviewer")
    operator = visitor(people, "operator")
    operate.remove_user(people, "viewer")
    operate.add_user(people, "reviewer", "reviewer", "another password")
    operator.post("/logout")
    for each in (viewer, reviewer, operator):
        assert each.get("/").status_code == 303


def test_a_cookie_that_was_changed_is_worth_nothing(people):
    guest = visitor(people, "viewer")
    (name,) = [each for each in guest.client.cookies if each.startswith("lf_session")]
    text, _, signature = guest.client.cookies[name].partition(".")
    another = "1" if signature[-1] == "0" else "0"
    changed = (f"{text}x.{signature}", f"{text}.{signature[:-1]}{another}", "", "a.b.c", "=.=")
    for cookie in changed:
        guest.client.cookies.clear()
        guest.client.cookies.set(name, cookie)
        assert guest.get("/").status_code == 303


def test_files_of_secrets_are_private_and_hold_no_password(people):
    create_web(people.folder)
    for name in ("users.json", ".web-secret"):
        assert (people.folder / name).stat().st_mode & 0o777 == 0o600
    assert PASSWORD not in (people.folder / "users.json").read_text(encoding="utf-8")


def test_a_damaged_file_of_users_lets_nobody_in(people):
    operator = visitor(people, "operator")
    (people.folder / "users.json").write_text("{")
    assert operator.get("/").status_code == 303
    assert "cannot be read" in operator.get("/login").text


@pytest.mark.parametrize(
    ("name", "role", "password", "words"),
    [
        ("../x", "viewer", PASSWORD, "cannot name a user"),
        ("ann", "operater", PASSWORD, "Did you mean 'operator'"),
        ("ann", "viewer", "short", "must have 10 to"),
    ],
)
def test_users_that_cannot_be_are_refused(bot, name, role, password, words):
    with pytest.raises(ServingError, match=re.escape(words)):
        operate.add_user(bot, name, role, password)
    assert operate.users(bot) == ()


@pytest.mark.variants
@pytest.mark.parametrize(
    "path",
    [
        "/versions/..%2f..%2fetc",
        "/versions/..%2Freport",
        "/versions/v1/report",
        "/versions/v0001%00/report",
        "/static/..%2fapp.py",
        "/static/../app.py",
        "/jobs/..%2f..%2fusers.json",
        "/compare?before=..&after=v0001",
        "/versions?before=/etc",
        "/rounds?before=../x",
    ],
)
def test_no_path_can_be_named(page, path):
    answer = page.get(path)
    assert answer.status_code in (404, 409), answer.text
    assert "root:" not in answer.text


def test_workspaces_are_found_by_name_alone(bot):
    place = Visitor.of(bot.folder.parent)
    assert place.get("/w/bot/").status_code == 200
    for name in ("..", "~", "..~..~etc", "bot~versions", "nothing", "%2e%2e"):
        assert place.get(f"/w/{name}/versions").status_code == 404


def test_every_answer_forbids_scripts_from_elsewhere(page):
    for path in ("/", "/versions/v0001", "/nothing", "/static/web.js"):
        policy = page.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    report = page.get("/versions/v0001/report").headers["content-security-policy"]
    assert report.endswith("sandbox")
    assert "script-src" not in report


def test_nothing_is_loaded_from_elsewhere_and_no_script_or_style_is_inline(page):
    for path in ("/", "/rounds", "/versions", "/versions/v0001", "/monitor", "/settings"):
        text = page.text(path)
        assert not re.search(r'(?:src|href|action)="(?:[a-z]+:)?//', text), path
        assert not re.search(r'(?:src|href|action)="/', text), f"{path}: not relative"
        assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son[a-z]+=", text), path
