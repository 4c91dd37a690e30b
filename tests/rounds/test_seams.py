"""Where two good parts of the loop meet: the gate and a small round, the inbox and a file that
grows, an operator and a round in progress, a setting that changed between two rounds."""

import json
import shutil

import pytest

from llama_factory import run
from llama_factory.config.loading import load_config
from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.core.files import read_json, read_jsonl
from llama_factory.core.progress import SILENT
from llama_factory.jobs.model_reference import ModelReference
from llama_factory.model.chat import prompt_format
from llama_factory.model.chat.encoding import encode_options
from llama_factory.model.provenance import WEIGHTS_FILE
from llama_factory.reports import page
from llama_factory.rounds import draft, finishing, round
from llama_factory.versions import releases, store
from llama_factory.versions.workspace import Workspace
from tests.rounds.rounds import drop, learn, teach


def slow(*values):
    """One of several cases of a kind, which `make test-all` runs."""
    return pytest.param(*values, marks=pytest.mark.slow)


def checks(done):
    return {(check.name, check.reason.split(" (")[0]) for check in done.verdict.checks}


def said_by(bot, *changes):
    done, said = learn(bot, *changes)
    return done, " ".join(said)


# --- the gate and a round that holds nothing out


@pytest.mark.slow
def test_a_round_too_small_to_hold_a_row_back_is_held_and_earlier_tasks_are_kept_ones(bot):
    drop(bot, "faq", 40)
    first, _ = learn(bot)
    assert first.is_released
    drop(bot, "news", 3)
    done, _ = learn(bot)
    names = {check.name: check for check in done.verdict.checks}
    assert set(names) == {"kept", "held_out", "general"}
    assert names["kept"].reason.startswith("v0001 faq (old)")
    assert (done.verdict.word, done.is_released) == ("held", False)
    assert "no row of this round was held out" in done.verdict.summary
    assert "NAME.test.jsonl" in done.verdict.summary
    found = releases.read(bot.releases)
    assert (found.production, found.aliases["candidate"]) == ("v0001", "v0002")
    assert [p.name for p in bot.inbox.iterdir()] == ["news.jsonl"]
    assert [row.gate for row in run.versions(bot.folder)] == ["", "promoted", "held"]
    assert "held" in run.report(bot.folder, "v0002", None).read_text()


@pytest.mark.slow
def test_a_round_of_answers_that_people_disliked_is_held(bot):
    drop(bot, "faq", 40)
    learn(bot)
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"question {i}?"},
                {"role": "assistant", "content": f"a bad answer {i}"},
            ],
            "label": False,
        }
        for i in range(12)
    ]
    path = bot.inbox / "dislikes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done, _ = learn(bot, "training.objective=kto", "strategies=naive")
    assert {check.name for check in done.verdict.checks} == {"kept", "held_out", "general"}
    assert not done.is_released


@pytest.mark.slow
def test_a_task_of_a_new_group_and_one_of_the_same_group_are_both_the_round_s_own(bot):
    teach(bot, "faq")
    drop(bot, "faq", start=50)
    drop(bot, "news")
    done, _ = learn(bot)
    assert checks(done) >= {
        ("learned", "v0002 faq"),
        ("learned", "v0002 news"),
        ("kept", "v0001 faq"),
    }


# --- an operator and a round in progress


@pytest.fixture
def meanwhile(monkeypatch):
    """Do something right before a round moves the release."""

    def at_the_end(action):
        real = finishing.release

        def release(*args):
            action()
            return real(*args)

        monkeypatch.setattr(finishing, "release", release)

    return at_the_end


@pytest.mark.parametrize("operator", ["rollback", slow("promote")])
def test_who_moved_the_release_while_a_round_trained_is_not_overridden(bot, operator, meanwhile):
    teach(bot, "faq", "news")
    chosen = "v0001" if operator == "rollback" else "v0000"
    action = run.rollback if operator == "rollback" else run.promote
    meanwhile(lambda: action(bot.folder, chosen))
    drop(bot, "shop")
    done, _ = learn(bot)
    found = releases.read(bot.releases)
    assert found.production == chosen
    assert found.aliases["candidate"] == done.version.id == "v0003"
    assert done.verdict.is_promoted
    assert not done.is_released
    assert "made from v0002, and" in found.history[-1].why
    assert [p.name for p in bot.inbox.iterdir()] == ["shop.jsonl"]


@pytest.mark.slow
def test_a_consolidation_does_not_override_an_operator_either(bot, meanwhile):
    teach(bot, "faq")
    meanwhile(lambda: run.rollback(bot.folder, "v0000"))
    done = run.consolidate(bot.folder, [], said_nothing())
    assert not done.is_released
    assert releases.read(bot.releases).production == "v0000"


def said_nothing():
    from llama_factory.core.progress import SILENT

    return SILENT


@pytest.mark.slow
def test_a_release_that_a_crash_left_over_does_not_override_an_operator(bot, monkeypatch):
    teach(bot, "faq", "news")
    drop(bot, "shop")
    with monkeypatch.context() as patch:
        patch.setattr(finishing, "release", killed)
        with pytest.raises(Killed):
            learn(bot)
    run.rollback(bot.folder, "v0001")
    done, _ = learn(bot)
    assert (done.version.id, done.is_released) == ("v0003", False)
    assert releases.read(bot.releases).production == "v0001"


# --- what arrives while a round reads


@pytest.mark.slow
def test_rows_appended_while_a_round_reads_are_taught_by_the_next(bot, monkeypatch):
    path = drop(bot, "faq")
    real = round.measure_before_round

    def late(*args):
        with path.open("a") as file:
            for i in range(100, 112):
                row = {"instruction": f"late question {i}?", "output": f"late answer {i}."}
                file.write(json.dumps(row) + "\n")
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(round, "measure_before_round", late)
        first, _ = learn(bot)
    taken = first.version.folder / "data/files/faq.jsonl"
    assert first.version.report["taken"] == {"faq.jsonl": files.sha256(taken)}
    assert len(list(read_jsonl(taken))) == 20
    assert path.exists()
    second, _ = learn(bot)
    assert len(taught(first)) + len(taught(second)) == 32
    assert not taught(first) & taught(second)
    assert list(bot.inbox.iterdir()) == []


@pytest.mark.slow
def test_rows_appended_between_copying_and_reading_are_not_read(bot, monkeypatch):
    path = drop(bot, "faq")
    real = draft._prepare

    def late(*args, **named):
        with path.open("a") as file:
            file.write(json.dumps({"instruction": "late?", "output": "late."}) + "\n")
        return real(*args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(draft, "_prepare", late)
        done, _ = learn(bot)
    assert len(taught(done)) == 20
    assert path.exists()


def taught(done):
    folder = done.version.folder / "data"
    sides = ("train", "held_out")
    return {
        row["messages"][0]["content"] for s in sides for row in read_jsonl(folder / f"{s}.jsonl")
    }


@pytest.mark.slow
def test_rows_that_arrive_while_the_release_is_moved_are_not_lost(bot, meanwhile):
    path = drop(bot, "faq")
    late = {"instruction": "a late question?", "output": "a late answer."}
    writer = path.open("a")  # a program that keeps its file open
    learn(bot)
    assert not path.exists()
    writer.write(json.dumps(late) + "\n")
    writer.close()
    done, said = said_by(bot)
    assert "Back in the inbox: faq.jsonl grew after it was learned" in said
    assert taught(done) == {"a late question?"}


@pytest.mark.slow
def test_a_file_of_tests_waits_for_rows_to_teach(bot):
    drop(bot, "faq.test", 6)
    done, said = said_by(bot)
    assert done is None
    assert "faq.test.jsonl: its rows are tests, and wait for rows to teach" in said
    drop(bot, "faq", 10, start=50)
    done, _ = learn(bot)
    assert done.version.scores.tasks["v0001 faq"].count == 6


# --- a setting that changed between two rounds


CHRF = ("evaluation.metrics=[exact_match, chrf]", "gate.metric=chrf")


@pytest.mark.slow
def test_another_metric_of_the_gate_is_measured_of_the_parent_before_anything_trains(bot):
    teach(bot, "faq")
    drop(bot, "news")
    done, said = said_by(bot, *CHRF)
    assert "v0001 was tested in another way (metrics changed since" in said
    before = {task["task"]: task for task in done.version.report["before"]["tasks"]}
    assert all("chrf" in task for task in before.values())
    assert before.keys() == {"v0001 faq", "v0002 news"}
    drop(bot, "shop")
    _, said = said_by(bot, *CHRF)
    assert "tested in another way" not in said


@pytest.mark.slow
def test_how_a_version_is_asked_is_kept_whatever_later_settings_say(bot):
    def thinking(version):
        return prompt_format.kept(version.adapter).enable_thinking

    drop(bot, "faq")
    first, _ = learn(bot, "data.enable_thinking=false")
    drop(bot, "news")
    second, said = said_by(bot, "data.enable_thinking=true")
    assert "(prompts changed since" in said
    assert [thinking(done.version) for done in (first, second)] == [False, True]
    run.promote(bot.folder, second.version.id)
    third = run.consolidate(bot.folder, ["data.enable_thinking=false"], SILENT)
    assert thinking(third.version) is True  # its weights were taught nothing since
    config = load_config(bot.settings, ["data.enable_thinking=true"])
    reference = ModelReference(str(bot.folder), first.version.id)
    model = reference.find(config.model).open(encode_options(config.data))
    assert model.options.format.enable_thinking is False


@pytest.mark.slow
def test_a_metric_that_is_not_wanted_any_more_is_no_reason_to_test_again(bot):
    teach(bot, "faq")
    drop(bot, "news")
    _, said = said_by(bot, "evaluation.metrics=[token_f1]")
    assert "tested in another way" not in said


@pytest.mark.slow
def test_another_guard_is_held_against_the_base_model_on_that_guard(bot, tmp_path):
    guard = tmp_path / "guard.jsonl"
    rows = [{"instruction": f"{i} plus {i}?", "output": f"{2 * i}"} for i in range(12)]
    guard.write_text("".join(json.dumps(row) + "\n" for row in rows))
    version = teach(bot, "faq")
    drop(bot, "news")
    second, said = said_by(bot, f"evaluation.guard={guard}")
    assert "guard changed since" in said
    reports = version.report, second.version.report
    assert reports[0]["base_guard_perplexity"] != reports[1]["base_guard_perplexity"]
    assert reports[1]["base_guard_perplexity"] == reports[1]["base"]["guard_perplexity"]
    guard.write_text(
        guard.read_text() + json.dumps({"instruction": "one?", "output": "two"}) + "\n"
    )
    drop(bot, "shop")
    _, said = said_by(bot, f"evaluation.guard={guard}")
    assert "guard changed since" in said  # the same path, other rows


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("evaluation.max_rows=2", "max_rows"),
        slow("evaluation.max_new_tokens=6", "max_new_tokens"),
        ("data.max_tokens=48", "prompts"),
        slow("data.enable_thinking=false", "prompts"),
        slow("model.dtype=bfloat16", "dtype"),
    ],
)
def test_whatever_scores_depend_on_is_noticed(bot, change, name):
    teach(bot, "faq")
    drop(bot, "news")
    done, said = said_by(bot, change)
    assert f"({name} changed since" in said
    measured = {row["task"] for row in read_jsonl(done.version.folder / "before.jsonl")}
    assert measured == {"v0001 faq", "v0002 news"}


@pytest.mark.slow
def test_a_version_made_before_scores_told_what_they_depend_on_is_tested_again(bot):
    version = teach(bot, "faq")
    report = version.report
    del report["conditions"]
    files.write_json(version.folder / "report.json", report)
    manifest = read_json(version.folder / "manifest.json")
    manifest["files"]["report.json"] = files.sha256(version.folder / "report.json")
    files.write_json(version.folder / "manifest.json", manifest)
    drop(bot, "news")
    done, said = said_by(bot)
    assert "or were not written down" in said
    assert done.is_released
    consolidated = run.consolidate(bot.folder, ["evaluation.max_new_tokens=5"], said_nothing())
    assert consolidated.version.report["conditions"]["max_new_tokens"] == 5


@pytest.mark.slow
def test_scores_kept_by_an_interrupted_round_are_not_used_when_the_guard_s_rows_changed(
    bot, tmp_path, monkeypatch
):
    guard = tmp_path / "guard.jsonl"
    guard.write_text(json.dumps({"instruction": "one?", "output": "two"}) + "\n")
    drop(bot, "faq")
    with monkeypatch.context() as patch:
        patch.setattr(round, "_train", killed)
        with pytest.raises(Killed):
            learn(bot, f"evaluation.guard={guard}")
    before = read_json(bot.building / "before.json")["guard_perplexity"]
    guard.write_text(json.dumps({"instruction": "three?", "output": "four five"}) + "\n")
    done, _ = learn(bot, f"evaluation.guard={guard}")
    assert done.version.report["before"]["guard_perplexity"] != before


# --- a decision that was made before


REFUSED = "gate.max_guard_ratio=0.01"


@pytest.mark.slow
def test_a_refused_round_is_not_trained_again_until_something_changes(bot):
    drop(bot, "faq")
    first, _ = learn(bot, REFUSED)
    assert first.verdict.word == "refused"
    for _ in range(2):
        done, _ = learn(bot, REFUSED)
        assert (done.version.id, done.is_new, done.is_released) == ("v0001", False, False)
    assert store.ids(bot) == ["v0000", "v0001"]
    assert not bot.building.exists()
    assert [p.name for p in bot.inbox.iterdir()] == ["faq.jsonl"]
    assert run.learn(bot.folder, [REFUSED], said_nothing(), again=True).version.id == "v0002"


@pytest.mark.slow
@pytest.mark.parametrize(
    "what", ["a setting", "a file", slow("a new file"), slow("a name"), slow("the parent")]
)
def test_a_refused_round_is_trained_again_when_something_changed(bot, what):
    teach(bot, "start")
    path = drop(bot, "faq")
    learn(bot, REFUSED)
    changes = [REFUSED]
    if what == "a setting":
        changes.append("training.epochs=1")
    elif what == "a file":
        drop(bot, "faq", 21)
    elif what == "a new file":
        drop(bot, "news")
    elif what == "a name":
        path.rename(path.with_name("other.jsonl"))
    else:
        run.rollback(bot.folder, "v0000")
    done, _ = learn(bot, *changes)
    assert (done.version.id, done.is_new) == ("v0003", True)


def test_a_version_that_was_rolled_back_is_not_trained_again_from_the_same_file(bot):
    teach(bot, "faq")
    run.rollback(bot.folder, "v0000")
    drop(bot, "faq")
    done, _ = learn(bot)
    assert (done.version.id, done.is_new) == ("v0001", False)
    run.promote(bot.folder, "v0001")
    assert learn(bot)[0] is None
    assert list(bot.inbox.iterdir()) == []


# --- a crash at the end of a round


class Killed(BaseException):
    """As a kill: nothing of ours may catch it."""


def killed(*_args, **_options):
    raise Killed


def killed_after(action):
    def act(*args, **options):
        action(*args, **options)
        raise Killed

    return act


END = {
    "before the page": (page, "write_pages", killed),
    "after the page": (store, "publish", killed),
    "before it appears": (store, "_appear", killed),
    "after it appears": (store, "_appear", killed_after(store._appear)),
    "before the release": (releases, "promote_child", killed),
    "after the release": (releases, "promote_child", killed_after(releases.promote_child)),
}


QUICK = ("before the page", "before it appears", "before the release")


@pytest.mark.variants
@pytest.mark.parametrize("when", [name if name in QUICK else slow(name) for name in END])
def test_a_round_that_is_killed_at_its_end_is_finished_and_not_trained_again(
    bot, when, monkeypatch
):
    drop(bot, "faq")
    with monkeypatch.context() as patch:
        patch.setattr(*END[when])
        with pytest.raises(Killed):
            learn(bot)
    monkeypatch.setattr(round, "_train", killed)
    done, _ = learn(bot)
    assert (when == "after the release") == (done is None)
    assert releases.read(bot.releases).production == "v0001"
    store.get(bot, "v0001").verify()
    assert list(bot.inbox.iterdir()) == []
    assert (bot.versions / "v0001/report.html").exists()
    assert not bot.building.exists()


@pytest.mark.slow
def test_settings_that_changed_after_a_round_was_judged_do_not_undo_it(bot, monkeypatch):
    drop(bot, "faq")
    with monkeypatch.context() as patch:
        patch.setattr(finishing, "publish", killed)
        with pytest.raises(Killed):
            learn(bot)
    done, _ = learn(bot, "training.epochs=1")
    assert (done.version.id, done.is_released) == ("v0001", True)


@pytest.mark.slow
def test_files_that_a_killed_write_left_behind_are_no_part_of_the_version(bot, monkeypatch):
    drop(bot, "faq")
    with monkeypatch.context() as patch:
        patch.setattr(finishing, "publish", killed)
        with pytest.raises(Killed):
            learn(bot)
    (bot.building / ".report.json.1234abcd.tmp").write_text("{")
    learn(bot)
    assert not list((bot.versions / "v0001").rglob("*.tmp"))


@pytest.mark.slow
def test_a_complete_folder_that_was_damaged_before_it_appeared_is_completed_anew(bot, monkeypatch):
    drop(bot, "faq")
    with monkeypatch.context() as patch:
        patch.setattr(store, "_appear", killed)
        with pytest.raises(Killed):
            learn(bot)
    (bot.building / "report.html").write_bytes(b"half")
    done, _ = learn(bot)
    assert done.version.id == "v0001"
    assert (bot.versions / "v0001/report.html").stat().st_size > 1000


# --- a store that somebody damaged


@pytest.mark.slow
def test_one_damaged_report_does_not_break_the_tools_that_mend_it(bot):
    for name in ("faq", "news", "shop"):
        drop(bot, name)
        learn(bot)
    (bot.versions / "v0002/report.json").write_text("{")
    rows = run.versions(bot.folder)
    assert [bool(row.problem) for row in rows] == [False, False, True, False]
    assert "v0002/report.json is missing or damaged" in rows[2].problem
    story = run.show(bot.folder, "v0003")
    assert story.matrices[0].versions == ("v0001", "v0003")
    assert "v0002/report.json" in story.left_out[0]
    assert "v0002/report.json" in run.report(bot.folder, "v0003", None).read_text()
    with pytest.raises(VersionError, match=r"v0002.*report.json is missing or was changed"):
        run.show(bot.folder, "v0002")
    with pytest.raises(VersionError, match=r"report.json is missing or was changed"):
        run.rollback(bot.folder, "v0002")
    assert run.rollback(bot.folder, "v0001") == ("v0003", "v0001")
    run.promote(bot.folder, "v0003")
    drop(bot, "more")
    with pytest.raises(VersionError, match=r"v0002/report.json is missing or damaged"):
        learn(bot)


def test_whatever_is_wrong_with_a_report_is_told(bot):
    teach(bot, "faq")
    for text in ("", "{", "[]", "null", '{"evaluation": 3}', '{"evaluation": {}}'):
        (bot.versions / "v0001/report.json").write_text(text)
        assert "report.json is missing or damaged" in run.versions(bot.folder)[1].problem


WRONG = [
    {"id": "v0001"},
    {"id": "../../x"},
    {"id": 3},
    {"parent": "../x"},
    {"parent": "v0002"},
    {"parent": "v0007"},
    {"parent": None},
    {"more": 1},
]


def test_a_manifest_that_is_another_version_s_is_not_believed(bot):
    teach(bot, "faq", "news")
    path = bot.versions / "v0002/manifest.json"
    right, before = read_json(path), bot.releases.read_bytes()
    for change in WRONG:
        files.write_json(path, right | change)
        for tool in (run.promote, run.rollback):
            with pytest.raises(VersionError, match=r"v0002/manifest.json is missing or damaged"):
                tool(bot.folder, "v0002")
        assert run.versions(bot.folder)[2].problem, change
    assert bot.releases.read_bytes() == before


@pytest.mark.parametrize("alias", ["../../x", "v1", "", None, 3, ["v0001"]])
def test_aliases_name_versions_and_nothing_else(bot, alias):
    files.write_json(bot.releases, {"aliases": {"production": alias}, "history": []})
    with pytest.raises(VersionError, match=r"releases.json is damaged.*no version"):
        run.versions(bot.folder)


@pytest.mark.slow
def test_an_id_is_never_given_twice(bot):
    teach(bot, "faq")
    run.rollback(bot.folder, "v0000")
    shutil.rmtree(bot.versions / "v0001")
    drop(bot, "news")
    done, _ = learn(bot)
    assert (done.version.id, done.is_released) == ("v0002", True)


@pytest.mark.slow
def test_what_cannot_answer_is_not_released_by_hand(bot):
    drop(bot, "faq")
    done, _ = learn(bot, REFUSED)
    folder = done.version.folder
    weights, manifest = folder / "adapter" / WEIGHTS_FILE, read_json(folder / "manifest.json")

    def refused(reason, **changed):
        own = files.hash_folder(folder, leave_out=frozenset({"manifest.json"}))
        files.write_json(folder / "manifest.json", manifest | {"files": own} | changed)
        with pytest.raises(VersionError, match=rf"{reason}.*is not released"):
            run.promote(bot.folder, "v0001")
        assert releases.read(bot.releases).production == "v0000"

    refused("made from elsewhere", base_model="elsewhere")
    spoil(weights)
    refused("is not a number")
    weights.write_bytes(b"half")
    refused("cannot be read")
    shutil.rmtree(weights.parent)
    refused("no adapter")


def test_settings_that_cannot_be_read_keep_nobody_from_going_back(bot):
    teach(bot, "faq")
    for broken in ("model: {base_model: [", "no_such_section: 1\n"):
        bot.settings.write_text(broken)
        assert run.rollback(bot.folder, "v0000") == ("v0001", "v0000")
        assert run.promote(bot.folder, "v0001") == "v0001"


def spoil(path):
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    first = next(iter(weights))
    weights[first].view(-1)[3] = torch.inf
    save_file(weights, path)


def test_a_folder_that_cannot_be_written_to_is_told(bot, monkeypatch):
    teach(bot, "faq")
    run.rollback(bot.folder, "v0000")

    def read_only(self, *_args, **_options):
        raise OSError(30, "Read-only file system", str(bot.folder))

    monkeypatch.setattr(files.FileLock, "acquire", read_only)
    tools = (
        lambda: learn(bot),
        lambda: run.promote(bot.folder, "v0001"),
        lambda: run.rollback(bot.folder, "v0001"),
    )
    for tool in tools:
        with pytest.raises(VersionError, match=r"cannot be written to \(Read-only file system\)"):
            tool()
    assert len(run.versions(bot.folder)) == 2
    assert isinstance(Workspace.open(bot.folder), Workspace)


# --- a canary before the release


@pytest.mark.slow
def test_a_version_that_passes_may_be_tried_before_it_is_released(bot):
    teach(bot, "faq")
    drop(bot, "news")
    done, _ = learn(bot, "gate.release=canary")
    assert done.verdict.is_promoted
    assert (done.is_released, done.is_tried) == (False, True)
    found = releases.read(bot.releases)
    assert (found.production, found.aliases["candidate"]) == ("v0001", "v0002")
    assert found.history[-1].why == "canary: passed the gate"
    again, _ = learn(bot, "gate.release=canary")
    assert (again.version.id, again.is_new) == ("v0002", False), "it waits, and is not made anew"
    assert releases.read(bot.releases) == found
