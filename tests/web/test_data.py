"""Data in the page: names of files, uploads, the check, refused rows, and what was ever taught."""

import json

import pytest

from llama_factory import curate, operate
from llama_factory.core import files
from llama_factory.core.errors import DataError, VersionError
from llama_factory.data.review.cases import Choice
from llama_factory.data.sources import inbox as inboxes
from llama_factory.jobs import taught, uploads
from tests.web.bots import EVIL
from tests.web.browsing import Visitor

GOOD = {"instruction": "What is the warranty?", "output": "31 months."}
BAD_NAMES = ["../out.jsonl", "/etc/x.jsonl", "..", "", ".hidden.jsonl", "a\\b.jsonl", "a\nb.jsonl"]
BAD_NAMES += ["half.part", "x" * 250 + ".jsonl"]


def put(bot, name="faq.jsonl", rows=(GOOD,)):
    files.write_jsonl(bot.inbox / name, rows)


def begin(page, name, size, stamp="1", **headers):
    sent = {"x-csrf-token": page.token} | headers
    asked = {"name": name, "size": size, "stamp": stamp}
    return page.client.post("/data/uploads", params=asked, headers=sent)


def add(page, upload, offset, content, **headers):
    sent = {"x-csrf-token": page.token, "content-type": "application/octet-stream"} | headers
    address = f"/data/uploads/{upload}"
    return page.client.post(address, params={"offset": offset}, content=content, headers=sent)


def send(page, name, content=b"{}\n", **headers):
    """A file in one piece."""
    begun = begin(page, name, len(content), **headers)
    if begun.status_code != 200:
        return begun
    return add(page, begun.json()["id"], 0, content, **headers)


def refuse(bot, text='{"instruction": "Who?"'):
    line = {"line": 3, "reason": f"not valid JSON {EVIL}", "row": text}
    files.write_jsonl(bot.quarantine / "faq.jsonl.rows.jsonl", [line])
    (bot.quarantine / "photo.png").write_bytes(b"x")
    (bot.quarantine / "photo.png.reason.txt").write_text("no rows in it")


def teach(bot, version, rows, side="train"):
    path = bot.versions / version / "data" / f"{side}.jsonl"
    files.write_jsonl(path, rows)


def row(text, line=7, file="faq.jsonl"):
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]
    return {"messages": turns, "group": "faq", "file": file, "line": line}


@pytest.mark.variants
@pytest.mark.parametrize(("language", "word"), [("en", "Who was taught this?"), ("zh", "谁学过")])
def test_the_page_answers_in_both_languages(bot, page, language, word):
    put(bot)
    refuse(bot)
    teach(bot, "v0001", [row("A red lamp")])
    text = page.text("/data?check=faq.jsonl&q=lamp", **{"accept-language": language})
    assert word in text
    assert EVIL not in text
    assert "no rows in it" in text


def test_the_check_tells_what_a_round_would_make_of_a_file(bot, page):
    put(bot, rows=[GOOD, GOOD, {"instruction": EVIL}])
    text = page.text("/data?check=faq.jsonl")
    assert '<td class="number">3</td>' in text
    assert "faq.jsonl:3" in text
    assert EVIL not in text
    assert [each.name for each in curate.inbox(bot)] == ["faq.jsonl"]


@pytest.mark.parametrize("name", ["../factory.yaml", "/etc/passwd", "missing.jsonl", EVIL])
def test_only_files_of_the_inbox_are_checked(page, name):
    text = page.client.get("/data", params={"check": name}).text
    assert "the inbox has no file" in text
    assert EVIL not in text


def test_a_file_is_sent_as_it_is(bot, page):
    content = (json.dumps(GOOD) + "\n").encode() * 100_000  # more than a form may have
    answer = send(page, "größe.jsonl", content)
    assert (answer.status_code, answer.json()["received"]) == (200, len(content))
    assert (bot.inbox / "größe.jsonl").read_bytes() == content
    assert len(content) > 4_000_000
    assert "größe.jsonl" in page.text("/data")


def test_a_cut_file_goes_on_where_it_was_and_no_round_sees_it(bot, page):
    content = b"0123456789" * 10
    begun = begin(page, "faq.jsonl", len(content)).json()
    assert add(page, begun["id"], 0, content[:30]).json()["received"] == 30
    assert curate.inbox(bot) == []
    assert inboxes.candidates(bot.inbox) == ([], [])
    assert "30 B of 100 B" in page.text("/data")
    again = begin(Visitor.of(bot.folder), "faq.jsonl", len(content)).json()
    assert (again["id"], again["received"]) == (begun["id"], 30)
    assert add(page, again["id"], 30, content[30:]).json()["received"] == 100
    assert (bot.inbox / "faq.jsonl").read_bytes() == content
    assert [each.name for each in bot.inbox.iterdir()] == ["faq.jsonl"]


def test_another_file_of_the_same_name_and_size_is_not_gone_on_with(page):
    first, other = (begin(page, "faq.jsonl", 9, stamp).json()["id"] for stamp in "12")
    assert first != other


@pytest.mark.parametrize(
    ("offset", "content", "word"),
    [(0, b"x", "30 bytes are here"), (31, b"x", "30 bytes"), (30, b"x" * 71, "larger than it was")],
)
def test_a_piece_that_does_not_fit_is_refused_and_says_how_far_the_file_is(
    bot, page, offset, content, word
):
    begun = begin(page, "faq.jsonl", 100).json()["id"]
    add(page, begun, 0, b"y" * 30)
    answer = add(page, begun, offset, content)
    assert (answer.status_code, answer.json()["received"]) == (409, 30)
    assert word in answer.json()["problem"]
    assert curate.upload(bot, begun).received == 30


def test_two_who_send_one_file_do_not_mix_it(bot):
    begun = uploads.begin_upload(bot, "ann", "faq.jsonl", 10)
    with (
        uploads.adding(bot, begun.id, 0),
        pytest.raises(DataError, match="from elsewhere"),
        uploads.adding(bot, begun.id, 0),
    ):
        pass


def test_a_person_sends_no_more_than_is_allowed_and_than_there_is_room_for(bot, monkeypatch):
    with pytest.raises(VersionError, match="MB are free"):
        uploads.begin_upload(bot, "ann", "a.jsonl", 10**11)
    with pytest.raises(DataError, match="at most 200 GB"):
        uploads.begin_upload(bot, "ann", "a.jsonl", 10**12)
    monkeypatch.setattr(uploads, "MOST_FILES", 2)
    for name in ("a", "b"):
        uploads.begin_upload(bot, "ann", name, 10)
    with pytest.raises(DataError, match="not whole"):
        uploads.begin_upload(bot, "ann", "c", 10)
    uploads.begin_upload(bot, "ben", "c", 10)


def test_a_part_is_removed_by_a_person_or_when_it_is_old(bot, page, monkeypatch):
    for name in ("a.jsonl", "b.jsonl"):
        begin(page, name, 10)
    first, second = curate.uploads(bot)
    assert page.post(f"/data/uploads/{first.id}/remove").status_code == 303
    assert curate.uploads(bot) == [second]
    monkeypatch.setattr(uploads, "OLDEST_SECONDS", -1)
    assert curate.uploads(bot) == []
    assert list(bot.inbox.iterdir()) == []


@pytest.mark.parametrize("upload", ["../../factory", "0" * 32, "x"])
def test_only_files_that_are_being_sent_get_pieces(bot, page, upload):
    before = sorted(bot.folder.rglob("*"))
    assert add(page, upload, 0, b"x").status_code in (404, 409)
    assert sorted(bot.folder.rglob("*")) == before


def test_a_form_without_a_script_sends_files(bot, page):
    sent = [("file", (name, b"{}\n")) for name in ("a.jsonl", "b.jsonl")]
    answer = page.client.post("/data/upload", data={"csrf": page.token}, files=sent)
    assert (answer.status_code, answer.headers["location"]) == (303, "../data")
    assert sorted(each.name for each in bot.inbox.iterdir()) == ["a.jsonl", "b.jsonl"]


@pytest.mark.variants
@pytest.mark.parametrize("name", BAD_NAMES)
def test_no_name_leaves_the_inbox(bot, page, name):
    before = sorted(bot.folder.rglob("*"))
    assert send(page, name).status_code in (409, 422)
    assert sorted(bot.folder.rglob("*")) == before


def test_no_file_is_replaced(bot, page):
    put(bot)
    before = (bot.inbox / "faq.jsonl").read_bytes()
    answer = send(page, "faq.jsonl", b"other")
    assert answer.status_code == 409
    assert "waits in the inbox already" in answer.text
    begun = begin(page, "late.jsonl", 5).json()["id"]
    put(bot, "late.jsonl")
    assert "waits in the inbox already" in add(page, begun, 0, b"other").text
    (bot.inbox / "late.jsonl").unlink()
    assert add(page, begun, 5, b"").status_code == 200
    assert (bot.inbox / "late.jsonl").read_bytes() == b"other"
    (bot.inbox / "late.jsonl").unlink()
    assert (bot.inbox / "faq.jsonl").read_bytes() == before
    assert [each.name for each in bot.inbox.iterdir()] == ["faq.jsonl"]


def test_a_file_that_breaks_off_leaves_nothing(bot):
    def broken():
        with curate.receive(bot, "faq.jsonl") as file:
            file.write(b"half")
            raise ConnectionError

    with pytest.raises(ConnectionError):
        broken()
    assert list(bot.inbox.iterdir()) == []


@pytest.mark.slow
def test_what_is_sent_needs_the_token_and_the_role(bot, page):
    assert send(page, "a.jsonl", **{"x-csrf-token": "0"}).status_code == 403
    begun = begin(page, "a.jsonl", 3).json()["id"]
    assert add(page, begun, 0, b"{}\n", **{"x-csrf-token": "0"}).status_code == 403
    assert add(page, begun, 0, b"{}\n", **{"content-type": "text/plain"}).status_code == 415
    curate.remove_upload(bot, begun)
    operators = (("ann", "operator", 200), ("rex", "reviewer", 403), ("vic", "viewer", 403))
    for name, role, _ in operators:
        operate.add_user(bot.folder, name, role, "a long password")
    for name, _, status in operators:
        visitor = Visitor.of(bot.folder)
        visitor.log_in(name, "a long password")
        assert send(visitor, f"{name}.jsonl").status_code == status
        assert ('id="upload"' in visitor.text("/data")) == (status == 200)
    assert [each.name for each in bot.inbox.iterdir()] == ["ann.jsonl"]


def test_a_mended_row_goes_to_the_next_round(bot, page):
    refuse(bot)
    assert "not valid JSON &lt;script&gt;" in page.text("/data")
    (case,) = curate.quarantine(bot).rows
    wrong = page.post("/data/mend", {"case": case.id, "row": "{"})
    assert (wrong.status_code, "still not valid JSON" in wrong.text) == (409, True)
    assert page.post("/data/mend", {"case": case.id, "row": json.dumps(GOOD)}).status_code == 303
    (kept,) = curate.case(bot, case.id).accepted()
    assert (kept.answer, kept.file, kept.line) == ("31 months.", "faq.jsonl", 3)
    assert curate.quarantine(bot).rows == ()
    assert "The mended row goes" in page.text("/data")


def test_a_refused_row_is_dropped(bot, page):
    refuse(bot)
    (case,) = curate.quarantine(bot).rows
    page.post("/data/mend", {"case": case.id})
    assert curate.case(bot, case.id).result == Choice()


def test_a_search_names_version_file_and_line(bot, page):
    teach(bot, "v0001", [row("A RED lamp"), row("A blue lamp")])
    teach(bot, "v0003", [row("Is it red?", 9, "tests.jsonl")], side="held_out")
    found = curate.taught(bot, " Red ")
    assert [(each.version, each.is_test, each.row.line) for each in found.rows] == [
        ("v0003", True, 9),
        ("v0001", False, 7),
    ]
    text = page.text("/data?q=red")
    assert "tests.jsonl:9" in text
    assert "faq.jsonl:7" in text
    assert "No version was taught this" in page.text("/data?q=green")


def test_a_search_is_paged_and_ends(bot, monkeypatch):
    monkeypatch.setattr(taught, "MOST_FOUND", 3)
    monkeypatch.setattr(taught, "MOST_BYTES", 700)
    for version in ("v0001", "v0003"):
        teach(bot, version, [row("lamp", n) for n in range(5)])
        teach(bot, version, [row("lamp", n) for n in range(5, 8)], side="held_out")
    seen, start = [], ""
    for _ in range(50):
        page = curate.taught(bot, "lamp", start)
        assert len(page.rows) <= 3
        seen += [(each.version, each.row.line) for each in page.rows]
        start = page.next
        if not start:
            break
    assert seen == [(v, n) for v in ("v0003", "v0001") for n in range(8)]


@pytest.mark.parametrize("start", ["../../x", "v0001:train:-1", "v0001:../x:0", EVIL])
def test_a_search_goes_on_only_from_its_own_places(page, start):
    text = page.client.get("/data", params={"q": "a", "start": start}).text
    assert "is no place to go on from" in text
    assert EVIL not in text


def test_a_damaged_line_is_named_and_hides_nothing(bot, page):
    teach(bot, "v0001", [row("A red lamp")])
    with (bot.versions / "v0001" / "data" / "train.jsonl").open("a") as file:
        file.write('{"messages": "red"}\n{"half a red')
    text = page.text("/data?q=red")
    assert "faq.jsonl:7" in text
    assert "v0001/data/train.jsonl has lines that cannot be read" in text


def test_later_versions_come_first_whatever_their_number(bot):
    for version in ("v0001", "v9999", "v10000"):
        teach(bot, version, [row("A lamp")])
    found = curate.taught(bot, "lamp").rows
    assert [each.version for each in found] == ["v10000", "v9999", "v0001"]


@pytest.mark.parametrize("path", ["/data", "/review"])
def test_a_damaged_quarantine_is_named_and_hides_nothing_else(bot, page, path):
    (bot.quarantine / "faq.jsonl.rows.jsonl").write_text('{"line": 1')
    assert "Mend the line" in page.text(path)


def test_a_missing_inbox_is_named(bot, page):
    bot.inbox.rmdir()
    assert "Make the folder again" in page.text("/data")
