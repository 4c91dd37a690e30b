"""A round in progress, on workspaces made by hand: no model is loaded and nothing is trained."""

import json
import shutil

import pytest
import yaml

from llama_factory.core import files
from llama_factory.core.times import now
from llama_factory.core.types import EvalReport, TaskScores
from llama_factory.data.cleaning_report import RowSample
from llama_factory.data.review import folder as review
from llama_factory.data.review.cases import Choice
from llama_factory.evaluation.task_rows import Prediction
from llama_factory.rounds import draft as drafts
from llama_factory.rounds import measure
from llama_factory.rounds.draft import Draft, open_draft
from llama_factory.rounds.settings import LearningConfig
from llama_factory.versions import store
from llama_factory.versions.version import ModelVersion
from tests.rounds.rounds import Listener, at_rest
from tests.tiny import make_workspace


@pytest.fixture
def bot(tmp_path):
    return make_workspace(tmp_path / "bot", tmp_path / "no model")


def put(workspace, name, rows):
    """A file that lies in the inbox since long."""
    path = workspace.inbox / name
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return at_rest(path)


def asked(question, answer):
    return {"instruction": question, "output": answer}


WORDS = (
    "apple",
    "river",
    "window",
    "garden",
    "silver",
    "thunder",
    "paper",
    "candle",
    "bridge",
    "sea",
)


def rows(topic, count=12, start=0):
    """Rows that are no near duplicates of each other."""
    return [
        asked(
            f"What does the {topic} say of {WORDS[i % 10]} and {WORDS[(i + 3) % 10]} number {i}?",
            f"{topic}: {WORDS[(i + 5) % 10]} is answer {i}.",
        )
        for i in range(start, start + count)
    ]


def config(**sections):
    """Settings of a round that protects nothing and reads in this process."""
    sections["data"] = {"num_workers": 1, "held_out_fraction": 0.2} | sections.get("data", {})
    return LearningConfig(**({"strategies": []} | sections))


ALL_TAUGHT = config(data={"held_out_fraction": 0})


def begin(workspace, settings=None, *, parent="v0000", again=False):
    listener = Listener()
    version = store.get(workspace, parent, verify=False)
    options = {"again": True} if again else {}
    made = open_draft(workspace, settings or config(), version, listener, **options)
    return made, listener.said


def texts(draft):
    """What a draft teaches and tests."""
    return [row.answer for row in draft.data.train], [row.answer for row in draft.data.held_out]


def finish(workspace, draft, settings=None, *, parent="v0000", **report):
    """Publish a draft as a round does, without a model."""
    folder, told = draft.folder, {"taken": draft.taken, "data": draft.data.report.to_json()}
    scores = EvalReport(tasks={}, guard_perplexity=None, seconds=0.0)
    files.write_json(folder / "report.json", told | {"evaluation": scores.to_json()} | report)
    chosen = (settings or config()).model_dump(mode="json")
    (folder / "run.yaml").write_text(yaml.safe_dump(chosen), encoding="utf-8")
    drafts.strip(folder, workspace, keep_rows=True)
    version = ModelVersion(
        id=draft.id,
        parent=parent,
        created=now(),
        base_model="no model",
        base_fingerprint="",
        data_fingerprint=draft.data.report.fingerprint,
        num_rows=len(draft.data.train),
        folder=folder,
        files={},
    )
    return store.publish(workspace, version)


def learned(workspace, name, taught):
    """A version that was taught a file, which has left the inbox."""
    path = put(workspace, name, taught)
    draft, _ = begin(workspace, parent=store.ids(workspace)[-1])
    version = finish(workspace, draft, parent=store.ids(workspace)[-1])
    path.unlink()
    return version


# --- a new round


def test_an_empty_inbox_begins_nothing_and_leaves_nothing(bot):
    assert begin(bot) == (None, [])
    assert not bot.building.exists()


def test_a_round_takes_copies_and_writes_down_what_it_was_begun_with(bot):
    path = put(bot, "faq.jsonl", rows("faq"))
    draft, said = begin(bot)
    assert isinstance(draft, Draft)
    assert said == []
    assert (draft.id, draft.folder) == ("v0001", bot.building)
    assert draft.taken == {"faq.jsonl": files.sha256(path)}
    taught, tested = texts(draft)
    assert sorted(taught + tested) == sorted(row["output"] for row in rows("faq"))
    assert tested
    assert [(task.name, len(task.rows)) for task in draft.tasks] == [("v0001 faq", len(tested))]
    assert (draft.folder / "data/files/faq.jsonl").read_bytes() == path.read_bytes()
    plan = files.read_json(draft.folder / store.PLAN)
    assert plan == {
        "id": "v0001",
        "parent": "v0000",
        "taken": draft.taken,
        "config": drafts.sections(config()),
    }
    assert drafts.read_plan(bot) == plan


def test_the_sections_of_the_settings_are_plain_values(bot):
    told = drafts.sections(config(training={"epochs": 3}))
    assert list(told) == [
        "model",
        "data",
        "training",
        "strategies",
        "evaluation",
        "gate",
        "plugins",
    ]
    assert told["training"]["epochs"] == 3
    assert json.loads(json.dumps(told)) == told


def test_several_files_are_one_round(bot):
    put(bot, "b.jsonl", rows("second"))
    put(bot, "a.jsonl", rows("first"))
    draft, _ = begin(bot)
    assert list(draft.taken) == ["a.jsonl", "b.jsonl"]
    assert {task.name for task in draft.tasks} == {"v0001 a", "v0001 b"}


def test_pictures_lie_beside_the_file_in_the_inbox_and_not_beside_its_copy(bot):
    (bot.inbox / "pictures").mkdir()
    picture = bot.inbox / "pictures/cat.png"
    picture.write_bytes(b"no picture")
    turns = [
        {"role": "user", "content": "<image>What is it?"},
        {"role": "assistant", "content": "A cat."},
    ]
    put(bot, "seen.jsonl", [{"messages": turns, "images": ["pictures/cat.png"]}])
    draft, _ = begin(bot)
    assert [row.images for row in draft.data.train] == [(str(picture),)]


def test_what_cannot_be_taken_yet_is_told_and_stays(bot):
    put(bot, "faq.jsonl", rows("faq"))
    (bot.inbox / "more").mkdir()
    draft, said = begin(bot)
    assert list(draft.taken) == ["faq.jsonl"]
    assert said == ["Left in the inbox: more: folders are not read; move its files up."]


def test_a_file_that_changes_while_it_is_copied_waits(bot, monkeypatch):
    path = put(bot, "faq.jsonl", rows("faq"))
    put(bot, "news.jsonl", rows("news"))
    real = shutil.copy2

    def slow_copy(source, target):
        real(source, target)
        if source == path:
            put(bot, "faq.jsonl", rows("faq", 13))

    monkeypatch.setattr(shutil, "copy2", slow_copy)
    draft, said = begin(bot)
    assert list(draft.taken) == ["news.jsonl"]
    assert said == [
        "Left in the inbox: faq.jsonl: changing; it is taken by the next round.",
    ]


def test_a_file_that_grew_after_it_was_learned_is_taken_again(bot):
    grown = bot.parked / "0123" / "faq.jsonl"
    grown.parent.mkdir(parents=True)
    grown.write_text("\n".join(map(json.dumps, rows("faq"))))
    at_rest(grown)
    draft, said = begin(bot)
    assert said == ["Back in the inbox: faq.jsonl grew after it was learned."]
    assert list(draft.taken) == ["faq.jsonl"]
    assert not list(bot.parked.iterdir())


# --- a round that was interrupted


def test_an_interrupted_round_goes_on_with_the_rows_it_was_begun_with(bot):
    put(bot, "faq.jsonl", rows("faq"))
    first, _ = begin(bot)
    (first.folder / "checkpoints").mkdir()
    put(bot, "late.jsonl", rows("late"))
    again, said = begin(bot)
    assert said == ["Going on with the interrupted round v0001."]
    assert (again.id, again.folder, again.taken) == (first.id, first.folder, first.taken)
    assert texts(again) == texts(first)
    assert again.data.report == first.data.report
    assert (again.folder / "checkpoints").exists()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"training": {"epochs": 9}}, "training"),
        ({"gate": {"max_drop": 0.5}, "data": {"mask_history": True}}, "data, gate"),
    ],
)
def test_a_round_whose_settings_changed_is_begun_anew(bot, changed, told):
    put(bot, "faq.jsonl", rows("faq"))
    first, _ = begin(bot)
    (first.folder / "checkpoints").mkdir()
    put(bot, "late.jsonl", rows("late"))
    again, said = begin(bot, config(**changed))
    assert said == [f"The interrupted round is begun anew: {told} changed since."]
    assert sorted(again.taken) == ["faq.jsonl", "late.jsonl"]
    assert not (again.folder / "checkpoints").exists()
    assert drafts.read_plan(bot)["config"] == drafts.sections(config(**changed))


def test_a_round_whose_parent_is_not_released_any_more_is_begun_anew(bot):
    learned(bot, "old.jsonl", rows("old"))
    put(bot, "faq.jsonl", rows("faq"))
    begin(bot)
    again, said = begin(bot, config(gate={"max_drop": 0.5}), parent="v0001")
    assert said == [
        "The interrupted round is begun anew: gate, the released version changed since."
    ]
    assert drafts.read_plan(bot)["parent"] == "v0001"
    assert again.id == "v0002"


def test_a_section_that_the_plan_does_not_know_has_changed(bot):
    put(bot, "faq.jsonl", rows("faq"))
    begin(bot)
    path = bot.building / store.PLAN
    plan = files.read_json(path)
    del plan["config"]["gate"]
    files.write_json(path, plan)
    _, said = begin(bot)
    assert said == ["The interrupted round is begun anew: gate changed since."]


@pytest.mark.variants
@pytest.mark.parametrize("text", ["", "{", "3", "null", "{}", '{"id": "v0007"}'])
def test_a_plan_that_is_none_is_begun_anew_without_a_word(bot, text):
    put(bot, "faq.jsonl", rows("faq"))
    begin(bot)
    (bot.building / store.PLAN).write_text(text)
    (bot.building / "checkpoints").mkdir()
    assert drafts.read_plan(bot) is None
    draft, said = begin(bot)
    assert (draft.id, said) == ("v0001", [])
    assert not (bot.building / "checkpoints").exists()


def test_where_nothing_was_begun_there_is_no_plan(bot):
    assert drafts.read_plan(bot) is None
    bot.building.mkdir()
    assert drafts.read_plan(bot) is None


# --- decisions that were made before


def made_twice(bot):
    """A version, and its file still in the inbox, as where the gate refused it."""
    put(bot, "faq.jsonl", rows("faq"))
    draft, _ = begin(bot)
    return finish(bot, draft)


def test_the_same_files_settings_and_parent_are_not_trained_again(bot):
    version = made_twice(bot)
    found, said = begin(bot)
    assert isinstance(found, ModelVersion)
    assert (found.id, found.folder) == ("v0001", version.folder)
    assert said == []
    assert not bot.building.exists()
    assert (bot.inbox / "faq.jsonl").exists()


def test_with_again_they_are_trained_again(bot):
    made_twice(bot)
    draft, _ = begin(bot, again=True)
    assert isinstance(draft, Draft)
    assert (draft.id, drafts.read_plan(bot)["id"]) == ("v0002", "v0002")
    again, said = begin(bot)  # an interrupted one goes on, whoever asked for it
    assert (again.id, said) == ("v0002", ["Going on with the interrupted round v0002."])


def test_of_several_the_newest_decision_counts(bot):
    made_twice(bot)
    draft, _ = begin(bot, again=True)
    finish(bot, draft)
    assert begin(bot)[0].id == "v0002"
    (bot.versions / "v0002/manifest.json").write_text("{")  # it cannot be read: the one before
    assert begin(bot)[0].id == "v0001"


def test_a_changed_setting_is_another_round(bot):
    made_twice(bot)
    for section in ({"gate": {"max_drop": 0.5}}, {"training": {"epochs": 9}}):
        draft, _ = begin(bot, config(**section))
        assert (type(draft), draft.id) == (Draft, "v0002")


def test_another_parent_is_another_round(bot):
    made_twice(bot)
    report = files.read_json(bot.versions / "v0001/report.json")
    put(bot, "faq.jsonl", rows("faq"))
    manifest = bot.versions / "v0001/manifest.json"
    shutil.copytree(bot.versions / "v0001", bot.versions / "v0002")
    values = files.read_json(manifest)
    files.write_json(
        bot.versions / "v0002/manifest.json", values | {"id": "v0002", "parent": "v0001"}
    )
    assert begin(bot)[0].id == "v0001"  # the newer one has another parent
    files.write_json(bot.versions / "v0002/manifest.json", values | {"id": "v0002"})
    assert begin(bot)[0].id == "v0002"
    other = values | {"id": "v0002", "data_fingerprint": "other rows"}
    files.write_json(bot.versions / "v0002/manifest.json", other)
    assert begin(bot)[0].id == "v0001"
    files.write_json(bot.versions / "v0002/manifest.json", values | {"id": "v0002"})
    files.write_json(bot.versions / "v0002/report.json", report | {"taken": {"b.jsonl": "0"}})
    assert begin(bot)[0].id == "v0001"


@pytest.mark.variants
@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "run.yaml").unlink(),
        lambda folder: (folder / "run.yaml").write_text("[]"),
        lambda folder: (folder / "run.yaml").write_text(""),
        lambda folder: (folder / "report.json").write_text("{"),
        lambda folder: (folder / "manifest.json").write_text("{"),
    ],
)
def test_what_cannot_be_read_decided_nothing(bot, spoil):
    spoil(made_twice(bot).folder)
    draft, _ = begin(bot)
    assert isinstance(draft, Draft)
    assert draft.id == "v0002"


def test_settings_that_a_version_does_not_know_make_another_round(bot):
    path = made_twice(bot).folder / "run.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(values | {"more": 1}))
    assert begin(bot)[0].id == "v0001"  # what a newer program wrote beside them does not count
    del values["gate"]
    path.write_text(yaml.safe_dump(values))
    assert isinstance(begin(bot)[0], Draft)


# --- files without anything to teach


def test_a_file_whose_rows_are_all_known_leaves_the_inbox(bot):
    learned(bot, "faq.jsonl", rows("faq"))
    path = put(bot, "again.jsonl", rows("faq"))
    digest = files.sha256(path)
    made, said = begin(bot, parent="v0001")
    assert made is None
    assert not path.exists()
    assert (bot.parked / digest / "again.jsonl").exists()
    assert not bot.building.exists()
    assert [line for line in said if line.startswith("Dropped: ")]
    assert begin(bot, parent="v0001") == (None, [])
    assert not list(bot.parked.iterdir())


def test_rows_to_test_wait_for_rows_to_teach(bot):
    learned(bot, "old.jsonl", rows("old"))
    waits = put(bot, "b.test.jsonl", rows("tests"))
    also = put(bot, "a.test.jsonl", rows("more tests"))
    useless = put(bot, "old.jsonl", rows("old"))
    made, said = begin(bot, parent="v0001")
    assert made is None
    assert [line for line in said if "inbox" in line] == [
        f"Left in the inbox: {name}: its rows are tests, and wait for rows to teach."
        for name in ("a.test.jsonl", "b.test.jsonl")
    ]
    assert [path.exists() for path in (waits, also, useless)] == [True, True, False]
    assert not bot.building.exists()
    put(bot, "faq.jsonl", rows("faq"))
    draft, said = begin(bot, parent="v0001")
    assert said == []
    assert sorted(draft.taken) == ["a.test.jsonl", "b.test.jsonl", "faq.jsonl"]
    assert len(draft.data.held_out) >= 24


def test_where_rows_may_not_be_kept_useless_files_are_deleted_and_their_texts_forgotten(bot):
    learned(bot, "faq.jsonl", rows("faq"))
    path = put(bot, "faq.jsonl", rows("faq"))
    made, _ = begin(bot, config(data={"keep_rows": False}), parent="v0001")
    assert made is None
    assert not path.exists()
    assert not bot.parked.exists()
    assert not (bot.cache / "data").exists()


def test_where_rows_may_be_kept_what_files_came_to_is_kept_too(bot):
    learned(bot, "faq.jsonl", rows("faq"))
    put(bot, "faq.jsonl", rows("faq"))
    assert begin(bot, parent="v0001")[0] is None
    assert (bot.cache / "data").exists()


# --- what is left out


def test_a_file_that_is_no_set_of_rows_goes_to_quarantine_at_once(bot):
    put(bot, "faq.jsonl", rows("faq"))
    broken = bot.inbox / "broken.parquet"
    broken.write_bytes(b"no parquet")
    at_rest(broken)
    digest = files.sha256(broken)
    draft, said = begin(bot)
    assert list(draft.taken) == ["faq.jsonl"]
    assert [line.startswith("Quarantined: broken.parquet: ") for line in said] == [True]
    assert (bot.quarantine / "broken.parquet").read_bytes() == b"no parquet"
    assert not broken.exists()
    assert (bot.parked / digest / "broken.parquet").exists()
    assert not (draft.folder / "data/files/broken.parquet").exists()
    assert (bot.inbox / "faq.jsonl").exists()


@pytest.mark.parametrize("others", [(), ("faq.jsonl",)])
def test_where_rows_may_not_be_kept_a_refused_file_lies_in_quarantine_only(bot, others):
    for name in others:
        put(bot, name, rows("faq"))
    broken = bot.inbox / "broken.parquet"
    broken.write_bytes(b"no parquet")
    at_rest(broken)
    made, _ = begin(bot, config(data={"keep_rows": False}))
    assert (made is None) == (not others)
    assert (bot.quarantine / "broken.parquet").exists()
    assert not broken.exists()
    assert not bot.parked.exists()


def test_refused_rows_are_set_aside_and_the_others_are_taught(bot):
    put(bot, "faq.jsonl", [*rows("faq"), "{broken", *rows("more", 2)])
    draft, said = begin(bot)
    assert len(draft.data.train) + len(draft.data.held_out) == 14
    assert list(draft.taken) == ["faq.jsonl"]
    assert (draft.folder / "data/files/faq.jsonl").exists()
    (line,) = said
    assert line.startswith("Quarantined: faq.jsonl:13: ")
    (row,) = files.read_jsonl(bot.quarantine / "faq.jsonl.rows.jsonl")
    assert (row["line"], row["row"]) == (13, "{broken")


@pytest.mark.parametrize("count", [199, 200, 201, 203])
def test_more_refused_rows_than_a_report_lists_are_counted(bot, count):
    put(bot, "faq.jsonl", [*rows("faq"), *(f"{{broken {i}" for i in range(count))])
    _, said = begin(bot)
    more = count - 200
    last = [f"Quarantined: {more} rows more, all in {bot.quarantine}."] if more > 0 else []
    assert said[min(count, 200) :] == last
    assert len(list(files.read_jsonl(bot.quarantine / "faq.jsonl.rows.jsonl"))) == count


def test_what_cleaning_did_is_told(bot):
    taught = [
        *rows("faq"),
        asked("What is the second mail address of the shop?", "It is shop\u200b@mail.example.org."),
        asked("", "An answer to nothing."),
        rows("faq")[0],
    ]
    taught[0] = taught[0] | {"topic": "fruit"}
    put(bot, "faq.jsonl", taught)
    _, said = begin(bot)
    assert "Changed: 1 rows by unicode." in said
    assert [
        line for line in said if line.startswith("Unread: faq.jsonl: nothing reads 'topic' (1 r")
    ]
    dropped = [line for line in said if line.startswith("Dropped: ")]
    assert dropped == ["Dropped: 1 rows, twice in this round."]


def test_corrections_are_told(bot):
    taught = rows("faq", 6)
    put(bot, "faq.test.jsonl", rows("test", 3))
    learned(bot, "faq.jsonl", taught)
    (bot.inbox / "faq.test.jsonl").unlink()
    corrected = [taught[2] | {"output": "It is something else."}]
    corrected += [row | {"output": "No more the same answer."} for row in rows("test", 2)]
    put(bot, "news.jsonl", corrected)
    _, said = begin(bot, ALL_TAUGHT, parent="v0001")
    assert [line for line in said if line.startswith(("Corrected", "Retired"))] == [
        "Corrected: 1 rows of earlier rounds.",
        "Retired: 2 held-out questions of earlier rounds, which this round answers otherwise. No "
        "version is asked them any more.",
    ]


def test_a_question_that_was_retired_is_not_tested_again(bot):
    put(bot, "faq.test.jsonl", rows("test", 3))
    first = learned(bot, "faq.jsonl", rows("faq", 6))
    (bot.inbox / "faq.test.jsonl").unlink()
    learned(bot, "news.jsonl", [rows("test")[0] | {"output": "No more the same answer."}])
    assert store.retired(store.lineage(store.get(bot, "v0002")))[first.id]
    put(bot, "third.jsonl", [rows("test")[0] | {"output": "A third answer."}])
    draft, said = begin(bot, ALL_TAUGHT, parent="v0002")
    assert texts(draft)[0] == ["A third answer."]
    assert "Corrected: 1 rows of earlier rounds." in said
    assert not [line for line in said if line.startswith("Retired")]


# --- people who decide


DISPUTED = [
    asked("How long is the warranty of the kettle?", "12 months."),
    asked("How long is the warranty of the kettle?", "24 months."),
]


def test_conflicts_wait_for_people(bot):
    put(bot, "faq.jsonl", [*rows("faq"), *DISPUTED])
    draft, said = begin(bot, ALL_TAUGHT)
    assert f"1 cases wait for `llama-factory data review {bot.folder}`." in said
    (case,) = review.open_cases(bot.review)
    assert not {"12 months.", "24 months."} & {*texts(draft)[0], *texts(draft)[1]}
    assert len(case.rows) == 2


def test_without_the_step_nobody_is_asked(bot):
    put(bot, "faq.jsonl", [*rows("faq"), *DISPUTED])
    _, said = begin(bot, config(data={"cleaning": ["unicode"]}))
    assert review.open_cases(bot.review) == []
    assert not [line for line in said if "wait for" in line]


def test_what_people_accepted_is_taught_with_the_next_round_and_once(bot):
    put(bot, "faq.jsonl", [*rows("faq"), *DISPUTED])
    draft, _ = begin(bot, ALL_TAUGHT)
    finish(bot, draft)
    (bot.inbox / "faq.jsonl").unlink()
    (case,) = review.open_cases(bot.review)
    assert begin(bot, parent="v0001")[0] is None
    review.decide(bot.review, case.id, "alice", case.keep(2))
    draft, said = begin(bot, ALL_TAUGHT, parent="v0001")
    assert texts(draft) == (["24 months."], [])
    assert draft.taken == {}
    assert said == []
    finish(bot, draft, parent="v0001")
    assert begin(bot, ALL_TAUGHT, parent="v0002") == (None, [])


def test_what_people_decided_counts_for_the_file_too_and_is_not_asked_again(bot):
    put(bot, "faq.jsonl", [*rows("faq"), *DISPUTED])
    begin(bot, ALL_TAUGHT)
    (case,) = review.open_cases(bot.review)
    review.decide(bot.review, case.id, "alice", case.keep(2))
    store.discard_unfinished(bot)
    draft, said = begin(bot, ALL_TAUGHT)
    assert "24 months." in texts(draft)[0]
    assert "12 months." not in texts(draft)[0]
    assert len(draft.data.train) == 13
    assert said == [
        "Dropped: 1 rows, twice in this round.",  # it lies in the file, and in the review
        "Dropped: 1 rows, another answer was chosen in review.",
    ]


def test_what_people_dropped_is_not_taught(bot):
    put(bot, "faq.jsonl", [*rows("faq"), *DISPUTED])
    draft, _ = begin(bot, ALL_TAUGHT)
    finish(bot, draft)
    (bot.inbox / "faq.jsonl").unlink()
    (case,) = review.open_cases(bot.review)
    review.decide(bot.review, case.id, "alice", Choice())
    assert begin(bot, parent="v0001")[0] is None
    assert not (bot.cache / drafts.ACCEPTED).exists()


# --- scores that an interrupted round goes on with


def test_scores_are_used_again_under_the_same_conditions_only(tmp_path):
    path = tmp_path / "before.json"
    assert measure.kept_scores(path, {}) is None
    report = EvalReport({"v0001 faq": TaskScores("v0001 faq", 2, {"token_f1": 0.5})}, 3.0, 1.5)
    answers = [Prediction("v0001 faq", "how?", "so", "thus", {"token_f1": 0.5})]
    measure.keep_scores(path, report, iter(answers), {"guard": "a"})
    assert measure.kept_scores(path, {"guard": "a"}) == report
    assert measure.kept_scores(path, {"guard": "b"}) is None
    assert measure.kept_scores(path, {}) is None
    kept = [Prediction.from_json(row) for row in files.read_jsonl(tmp_path / "before.jsonl")]
    assert kept == answers
    files.write_json(path, report.to_json())
    assert measure.kept_scores(path, {"guard": "a"}) is None


# --- what a version does not keep


def litter(folder):
    """Everything that only the making of a version needs."""
    for name in ("checkpoints", "checkpoints.replaced", "testing"):
        (folder / name / "deep").mkdir(parents=True)
        (folder / name / "deep/file").write_text("x")
    for name in ("before.json", "base.json", ".report.json.1234.tmp", "data/.x.tmp"):
        (folder / name).write_text("x")
    (folder / "before.jsonl").write_text("")


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_what_only_the_making_needed_is_removed_and_rows_stay(bot):
    put(bot, "faq.jsonl", rows("faq"))
    draft, _ = begin(bot)
    (draft.folder / "data/refused.jsonl").unlink()
    before = tree(draft.folder)
    report = (draft.folder / "data/report.json").read_bytes()
    litter(draft.folder)
    drafts.strip(draft.folder, bot, keep_rows=True)
    assert tree(draft.folder) == sorted([*before, "before.jsonl"])
    assert (draft.folder / "data/report.json").read_bytes() == report
    assert {"data/files/faq.jsonl", "data/train.jsonl"} <= {*before}
    assert (bot.cache / "data").exists()
    drafts.strip(draft.folder, bot, keep_rows=True)  # after a crash it is done again


def test_refused_rows_lie_in_quarantine_and_in_no_version(bot):
    put(bot, "faq.jsonl", [*rows("faq"), "{broken"])
    draft, _ = begin(bot)
    drafts.strip(draft.folder, bot, keep_rows=True)
    assert not (draft.folder / "data/refused.jsonl").exists()


def test_where_rows_may_not_be_kept_only_hashes_of_them_stay(bot):
    secret = asked("What is the secret of the garden?", "It is a zebra\u200b that dances.")
    put(bot, "faq.jsonl", [*rows("faq", 3), secret])
    draft, _ = begin(bot, config(data={"held_out_fraction": 0, "keep_rows": False}))
    assert [sample for sample in draft.data.report.samples if "zebra" in sample.before]
    litter(draft.folder)
    (bot.cache / "tokens").mkdir()
    (bot.cache / drafts.ACCEPTED).write_text("{}\n")
    (bot.cache / "more").mkdir()
    (bot.parked / "x").mkdir(parents=True)
    (bot.parked / "x/faq.jsonl").write_text("zebra")
    drafts.strip(draft.folder, bot, keep_rows=False)
    found = tree(draft.folder)
    assert not [name for name in found if name.startswith(("data/files", "data/train.jsonl"))]
    assert {"data/held_out.jsonl", "data/report.json", "data/columns/train"} <= {*found}
    texts_kept = [p.read_bytes() for p in draft.folder.rglob("*") if p.is_file()]
    assert not [text for text in texts_kept if b"zebra" in text]
    assert tree(bot.cache) == ["more"]
    assert not bot.parked.exists()
    told = files.read_json(draft.folder / "data/report.json")
    assert [(s["before"], s["after"]) for s in told["samples"]] == [("", "")]
    assert told["kept"] == {"faq": 4}
    (draft.folder / "data/files").mkdir()
    drafts.strip(draft.folder, bot, keep_rows=False)  # after a crash it is done again
    assert tree(draft.folder) == found


def test_samples_are_silent_where_rows_may_not_be_kept(bot):
    put(bot, "faq.jsonl", [*rows("faq", 3), asked("Who?", "A zebra\u200b.")])
    report = begin(bot)[0].data.report
    told = drafts.describe_data(report, keep_rows=True)
    assert told == report.to_json()
    assert "zebra" in told["samples"][0]["before"]
    silent = drafts.describe_data(report, keep_rows=False)
    assert [*silent["samples"]] == [told["samples"][0] | {"before": "", "after": ""}]
    assert {**silent, "samples": 0} == {**told, "samples": 0}
    assert isinstance(report.samples[0], RowSample)
