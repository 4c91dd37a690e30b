"""A workspace that is watched while its watcher and its rounds are killed at random moments: at the
end no row is lost or taught twice, no version is half made, the rows taught are those that nobody
disturbed would have been taught, and the journal explains every release.

`make soak KILLS=40` has it killed more often; SOAK_OUT names a file for what was seen, and
SOAK_SERVER=1 has a server beside it that is asked all the while, and killed too.
"""

import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from llama_factory import oversee, run
from llama_factory.core.files import read_jsonl, sha256, write_json
from llama_factory.versions import releases, store
from llama_factory.versions.journal import Journal
from llama_factory.versions.journal_facts import INTENTS, open_intents
from tests.rounds.asked import AskedServer
from tests.rounds.rounds import at_rest, learn
from tests.rounds.watched import LOOP, MOST_FILES, Watched, lines_of, question_of

SIDES = ("train", "held_out")


@pytest.mark.slow
def test_a_watched_workspace_survives_kills_at_random_moments(bot, tiny, tmp_path):
    kills, seed = int(os.environ.get("KILLS", "4")), int(os.environ.get("SEED", "0"))
    text = bot.settings.read_text().replace("data: {", "data: {cleaning: [unicode, empty], ")
    bot.settings.write_text(text.replace("learning_rate: 1e-2", "learning_rate: 5e-2") + LOOP)
    server = AskedServer(bot, tmp_path / "server.log") if os.environ.get("SOAK_SERVER") else None
    life, began = Watched(bot, seed, server), time.monotonic()
    try:
        live(life, kills)
    finally:
        life.stop()
    seen = life.to_json() | {"seed": seed, "seconds": round(time.monotonic() - began)}
    sys.stdout.write(f"\n{json.dumps(seen, indent=1)}\n")
    versions_are_whole(bot)
    no_row_is_taught_twice(bot)
    calm = run.init(tmp_path / "calm", str(tiny))
    taught_are_the_rows_of_an_undisturbed_workspace(bot, life, calm)
    nothing_poisoned_was_taught(bot, life)
    the_journal_explains_everything(bot)
    if server is not None:
        the_server_answered_with_what_was_released(bot, server)
    if out := os.environ.get("SOAK_OUT"):
        write_json(Path(out), seen | {"command": f"make soak KILLS={kills} SEED={seed}"})


def live(life, kills):
    """Files arrive and parts die, then everything that arrived is learned."""
    while sum(life.killed.values()) < kills:
        life.start()
        if life.random.random() < 0.4 and life.num_files < MOST_FILES:
            life.drop()
        time.sleep(life.random.uniform(0, 12))
        life.take_poison_away()
        life.kill()
    life.start()
    life.drop("poisoned")
    life.drop("renamed")
    life.wait_until_learned()
    life.wait_until_served()


def versions_are_whole(bot):
    for version_id in store.ids(bot):
        store.get(bot, version_id)
    assert {path.name for path in bot.versions.iterdir()} == set(store.ids(bot))


def taught(bot, version=releases.PRODUCTION):
    """How often each question was taught or held out in a lineage."""
    lineage = store.lineage(store.get(bot, version))
    sides = [each.folder / "data" / f"{side}.jsonl" for each in lineage for side in SIDES]
    return Counter(question_of(row) for path in sides for row in read_jsonl(path))


def no_row_is_taught_twice(bot):
    assert [question for question, count in taught(bot).items() if count > 1] == []


def taught_are_the_rows_of_an_undisturbed_workspace(bot, life, calm):
    """The same good rows at once, one round, and nobody is killed."""
    calm.settings.write_text(bot.settings.read_text())
    path = calm.inbox / "all.jsonl"
    path.write_text("".join(lines_of(life.dropped)), encoding="utf-8")
    at_rest(path)
    done, _ = learn(calm)
    wanted = taught(calm, done.version.id)
    assert wanted.keys() == set(map(question_of, life.dropped))
    assert taught(bot) == wanted


def nothing_poisoned_was_taught(bot, life):
    assert len(life.refused) == life.ways["poisoned"]
    assert taught(bot).keys().isdisjoint(life.poisoned)


def the_server_answered_with_what_was_released(bot, server):
    """Nothing but released versions answered, and never an older one after a newer one."""
    released = {each.aliases[releases.PRODUCTION] for each in releases.read(bot.releases).history}
    assert set(server.versions) <= released | {"v0000"}
    assert server.versions == sorted(server.versions)
    assert server.versions[-1] == releases.read(bot.releases).production
    assert set(server.failed) <= {"cut"}


def the_journal_explains_everything(bot):
    oversee.journal(bot.folder)
    listed = Journal(bot.journal).events()
    history = releases.read(bot.releases).history
    moves = [each for each in listed if "aliases" in each.data]
    assert [(each.time, each.data["aliases"]) for each in moves] == [
        (move.time, move.aliases) for move in history
    ]
    verdicts = {each.version: each for each in listed if each.what == "verdict"}
    assert verdicts.keys() == set(store.ids(bot)) - {"v0000"}
    for move in moves:
        if move.what == "released":
            assert verdicts[move.version].data["promoted"]
            assert verdicts[move.version].number < move.number
    assert open_intents(Journal(bot.journal).events(what=INTENTS)) == []
    seen = {each.data["sha256"] for each in listed if each.what == "file seen"}
    taken = (store.get(bot, each).report["taken"] for each in verdicts)
    assert {digest for files in taken for digest in files.values()} <= seen
    assert all(sha256(path) in seen for path in bot.inbox.glob("*.jsonl"))
