"""Streams, jobs, settings: what goes on when nobody looks, and what is told when somebody does."""

import asyncio
import json
import sys
import time

import pytest

from llama_factory import operate, oversee, upkeep
from llama_factory.core import files
from llama_factory.core.errors import ConfigError, VersionError
from llama_factory.core.ownership import owned, read_owner
from llama_factory.core.times import now
from llama_factory.jobs import background
from llama_factory.training.monitor import TRAINER_LOG
from llama_factory.versions import store
from llama_factory.web.live import Lookout, follow, look
from tests.web.browsing import Visitor


def followed(bot, change, last_seen=None):
    """What a stream tells when something changes after its first word."""

    async def read():
        answers, looks = [], []

        def goes_on():
            looks.append(1)
            if len(looks) == 1:
                change()
            return len(looks) < 3

        async for event in follow(bot, last_seen, goes_on, Lookout(0)):
            answers.append((event.data, int(event.id)))
        return answers

    return asyncio.run(read())


def test_a_stream_tells_which_parts_changed(bot):
    first, *later = followed(bot, lambda: upkeep.note(bot, "v0001", "hello", "ann"))
    assert first == ([], 0)
    assert later == [(["releases"], 0)]


def test_a_stream_goes_on_after_what_the_browser_knows(bot):
    oversee.journal(bot)
    newest = look(bot)[1]
    assert newest > 0
    (known,) = followed(bot, lambda: None, last_seen=newest)
    assert known == ([], newest)
    (missed,) = followed(bot, lambda: None, last_seen=newest - 1)
    assert "journal" in missed[0]


def test_looking_changes_nothing(bot):
    before = files.hash_folder(bot.folder)
    assert look(bot) == look(bot)
    assert files.hash_folder(bot.folder) == before


def test_streams_are_told_at_once_by_one_look(bot):
    looks, told = [], []

    def counted(workspace):
        looks.append(1)
        return look(workspace)

    async def person(lookout, ready):
        stream = follow(bot, None, lambda: len(told) < 40, lookout)
        told.append((await anext(stream)).data)
        ready.release()
        async for event in stream:
            told.append(event.data)
            return

    async def read():
        ready, lookout = asyncio.Semaphore(0), Lookout(0.05, counted)
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(person(lookout, ready))
            for _ in range(20):
                await ready.acquire()
            upkeep.note(bot, "v0001", "hello", "ann")

    asyncio.run(read())
    assert told == [[]] * 20 + [["releases"]] * 20
    assert 21 <= len(looks) < 40  # one each when they come, and then one for all


def test_who_leaves_a_stream_ends_no_look_of_others(bot):
    async def read():
        lookout = Lookout(0)
        leaving, staying = (asyncio.create_task(lookout.later(bot)) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        return await staying

    assert asyncio.run(read()) == look(bot)


def test_a_round_in_progress_is_drawn(bot):
    bot.building.mkdir()
    plan = {"id": store.next_id(bot), "parent": "v0003", "taken": {}, "config": {}}
    files.write_json(bot.building / store.PLAN, plan)
    updates = [
        {"current_steps": n, "total_steps": 9, "loss": 3 - n / 4, "lr": 1e-4, "throughput": 12.5}
        for n in range(1, 5)
    ]
    lines = [*map(json.dumps, updates), "{cut short"]
    (bot.building / TRAINER_LOG).write_text("\n".join(lines))
    text = Visitor.of(bot.folder).text("/rounds")
    assert "Update 4 of 9" in text
    assert '<progress max="9" value="4">' in text
    assert "12.5" in text
    assert "interrupted" in text
    assert 'class="line c0" d="M' in text


def waited(bot, job_id, state):
    until = time.monotonic() + 60
    while (job := oversee.job_log(bot, job_id)[0]).state != state:
        assert time.monotonic() < until, job
        time.sleep(0.05)
    return job


@pytest.mark.slow
def test_a_command_goes_on_by_itself_and_says_how_it_ended(bot):
    job = oversee.begin_job(bot, ["learn"], who="ann")
    assert job.is_alive
    ended = waited(bot, job.id, "finished")  # nothing waits in the inbox
    assert (ended.who, ended.code) == ("ann", 0)
    page = Visitor.of(bot.folder)
    assert page.get("/rounds").status_code == 200
    assert "llama-factory learn" in page.text(f"/jobs/{job.id}")


def test_jobs_run_one_after_another_and_can_be_stopped_while_they_wait(bot):
    earlier = bot.jobs / "0001"
    earlier.mkdir(parents=True)
    asked = {"words": ["learn"], "who": "ann", "began": now()}
    files.write_json(earlier / background.ASKED, asked)
    with files.locked(earlier / background.LOCK, what="running", seconds=1):
        second = oversee.begin_job(bot, ["learn"])
        assert (second.id, second.state) == ("0002", "waiting")
        oversee.stop_job(bot, second.id)
        stopped = waited(bot, second.id, "stopped")
    assert stopped.code in (None, *background.BY_SIGNAL)  # None: before it could write
    assert oversee.job_log(bot, "0001")[0].state == "lost"


def test_what_may_not_be_a_job_is_refused(bot):
    with pytest.raises(VersionError, match="cannot be a job"):
        oversee.begin_job(bot, ["serve"])
    with pytest.raises(ConfigError, match="epochz"):
        oversee.begin_job(bot, ["learn"], ["training.epochz=1"])
    with pytest.raises(VersionError, match="there is no job"):
        oversee.stop_job(bot, "../0001")
    assert oversee.jobs(bot) == []


def test_the_loop_is_paused_and_resumed(bot):
    page = Visitor.of(bot.folder)
    page.post("/rounds/pause")
    assert oversee.why(bot).is_paused
    assert "paused by local since" in page.text("/")
    assert oversee.pause(bot) is False
    page.post("/rounds/resume")
    assert not oversee.why(bot).is_paused
    assert [each.what for each in oversee.journal(bot, what=["paused", "resumed"])] == [
        "paused",
        "resumed",
    ]


def test_settings_are_checked_shown_and_saved(bot):
    page = Visitor.of(bot.folder)
    text, seen = oversee.settings_text(bot)
    wrong = page.post("/settings/check", {"text": f"{text}\nnonsense: 1\n", "seen": seen})
    assert "nonsense" in wrong.text
    assert "formaction" not in wrong.text
    better = text.replace("port: 8000", "port: 9000")
    shown = page.post("/settings/check", {"text": better.replace("\n", "\r\n"), "seen": seen})
    assert "+  port: 9000" in shown.text
    assert oversee.settings_text(bot) == (text, seen)
    assert page.post("/settings/save", {"text": better, "seen": seen}).status_code == 303
    assert oversee.settings_text(bot)[0] == better
    late = page.post("/settings/save", {"text": text, "seen": seen})
    assert "was changed since it was opened here" in late.text
    assert oversee.settings_text(bot)[0] == better


def test_a_key_is_shown_once(bot):
    page = Visitor.of(bot.folder)
    shown = page.post("/settings/keys", {"name": "web", "scopes": "chat", "rate": "60"}).text
    (key,) = operate.keys(bot)
    assert (key.scopes, key.requests_a_minute) == (("chat",), 60)
    assert "<pre>lf-" in shown
    assert "lf-" not in page.text("/settings").replace("lf-factory", "")
    page.post("/settings/keys/revoke", {"name": "web"})
    assert not operate.keys(bot)[0].is_active


def test_two_versions_are_compared_by_their_answers(bot):
    text = Visitor.of(bot.folder).text("/compare?before=v0001&after=v0003")
    assert "forgotten" in text
    assert "Answers that got worse (4)" in text


def test_a_version_is_downloaded_as_one_file(bot, tmp_path):
    answer = Visitor.of(bot.folder).post("/versions/v0003/pack")
    assert answer.status_code == 200
    (tmp_path / "packed").write_bytes(answer.content)
    other = tmp_path / "other"
    assert upkeep.unpack(other, tmp_path / "packed").version == "v0003"
    assert not list(bot.folder.glob(".pack-*"))


@pytest.mark.slow
def test_pages_read_no_more_files_of_many_versions_than_of_few(bot, tmp_path):
    from tests.web.bots import make_bot

    names: list[str] = []
    is_counting = False
    sys.addaudithook(lambda event, args: is_counting and event == "open" and names.append(args[0]))

    def opened(workspace, path):
        nonlocal is_counting
        page = Visitor.of(workspace.folder)
        is_counting = True
        page.text(path)
        is_counting = False
        count = sum("/versions/v" in str(each) for each in names)
        names.clear()
        return count

    many = make_bot(tmp_path / "many", 60)
    assert opened(many, "/versions") <= 3 * 26
    assert opened(many, "/versions/v0060") <= 3 * 22


def test_signs_of_life_of_a_round_are_not_told_but_its_death_is(bot):
    before = look(bot)[0]
    with owned(bot.lock, what="running a round here", beat_seconds=0.01):
        begun = look(bot)[0]
        beat = read_owner(bot.lock).beat
        until = time.monotonic() + 60
        while read_owner(bot.lock).beat == beat:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert look(bot)[0] == begun
    assert begun["begun"] != before["begun"] == look(bot)[0]["begun"]


def test_what_goes_on_and_on_is_told_now_and_then_and_to_all_alike(bot):
    seen = [({"round": str(n), "inbox": str(n)}, 0) for n in range(4)]
    looks = iter(seen)
    calm = Lookout(0, lambda workspace: next(looks), course_seconds=3600)

    async def read():
        return [(await calm.now(bot))[0] for _ in seen]

    told = asyncio.run(read())
    assert [each["round"] for each in told] == ["0", "0", "0", "0"]
    assert [each["inbox"] for each in told] == ["0", "1", "2", "3"]
    looks = iter(seen)
    quick = Lookout(0, lambda workspace: next(looks), course_seconds=0)
    calm = quick
    assert [each["round"] for each in asyncio.run(read())] == ["0", "1", "2", "3"]
