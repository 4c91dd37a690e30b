"""A workspace that learns round after round, on a tiny model."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from typer.testing import CliRunner

from llama_factory import run
from llama_factory.cli.app import app
from llama_factory.continual.low_rank import low_rank_layers
from llama_factory.core.errors import ConfigError, ModelError, VersionError
from llama_factory.core.files import read_json, read_jsonl
from llama_factory.core.progress import SILENT
from llama_factory.core.types import EvalReport
from llama_factory.model.adapted import adapt
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.settings import ModelSettings
from llama_factory.rounds import round
from llama_factory.text import signatures
from llama_factory.versions import releases, store
from llama_factory.versions.workspace import Workspace
from tests.cli.taught import command
from tests.rounds.rounds import SETTINGS, drop, learn, teach
from tests.tiny import make_tiny_model


def tree(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_two_rounds_make_a_real_matrix_and_empty_the_inbox(bot):
    drop(bot, "faq")
    first, _ = learn(bot)
    assert first.verdict.is_promoted
    assert list(bot.inbox.iterdir()) == []
    drop(bot, "news")
    second, _ = learn(bot)
    assert second.version.parent == "v0001"
    for check in second.verdict.checks[:2]:  # of the new task and of the old one
        assert re.search(r"\(90 % of the change: -?[\d.]+ – -?[\d.]+, \d+ rows\)", check.reason)
    story = run.show(bot.folder, "v0002")
    matrix = next(m for m in story.matrices if m.metric == "token_f1")
    assert matrix.tasks == ("v0001 faq", "v0002 news")
    assert matrix.row("v0001")[0] is not None
    assert all(score is not None for score in matrix.row("v0002"))
    assert [row.aliases for row in run.versions(bot.folder)] == [[], ["previous"], ["production"]]
    memory = second.version.memory.rows["replay"]
    assert {row.group for row in memory} == {"faq", "news"}
    assert {p.stem for p in (second.version.folder / "data/files").iterdir()} == {"news"}


@pytest.mark.slow
def test_fields_that_nothing_reads_are_told_and_stay_in_the_report(bot):
    path = drop(bot, "faq")
    rows = [json.loads(line) | {"context": "shop", "id": 1} for line in path.open()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done, said = learn(bot)
    assert any(
        line.startswith("Unread: faq.jsonl: nothing reads 'context' (20 rows).") for line in said
    ), said
    assert done.version.report["data"]["sets"][0]["unread"] == {"context": 20}
    shown = CliRunner().invoke(app, ["show", str(bot.folder)]).stdout
    assert "unread faq.jsonl: nothing reads 'context' (20 rows)." in " ".join(shown.split())


@pytest.mark.slow
def test_the_old_scores_are_measured_on_the_same_rows(bot):
    version = teach(bot, "faq")
    drop(bot, "faq", start=100)
    second, _ = learn(bot)
    tasks = {task.name: task for task in store.tasks(second.version)}
    assert tasks["v0001 faq"].rows == version.tasks()[0].rows
    assert set(second.version.scores.tasks) == {"v0001 faq", "v0002 faq"}


def test_the_version_is_a_plain_peft_folder(bot, tiny):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    version = teach(bot, "faq")
    network = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny), version.adapter)
    ours = adapt(
        ModelSettings(base_model=str(tiny), dtype="float32", adapter={"type": "lora", "rank": 4}),
        version.adapter,
        options=EncodeOptions(64),
        seed=0,
    )
    state = {k: v for k, v in network.state_dict().items() if "lora_" in k}
    for name, weight in ours.trainable().items():
        assert (state[name] == weight).all()


def test_an_empty_inbox_makes_no_version(bot):
    before = tree(bot.folder)
    done, _ = learn(bot)
    assert done is None
    assert store.ids(bot) == ["v0000"]
    assert [n for n in tree(bot.folder) if n not in before and "lock" not in n] == []


@pytest.mark.slow
def test_rows_taught_before_are_dropped_and_counted(bot):
    teach(bot, "faq")
    drop(bot, "faq")
    done, said = learn(bot)
    assert done is None
    assert any("rows, taught before in v0001." in line for line in said)
    drop(bot, "faq", count=30)
    done, _ = learn(bot)
    dropped = done.version.report["data"]["dropped"]
    assert sum(dropped.values()) == 20


@pytest.mark.slow
def test_bad_rows_and_files_are_quarantined_and_the_round_goes_on(bot):
    path = drop(bot, "faq")
    path.write_text(path.read_text() + '{"instruction": "half')
    (bot.inbox / "latin.jsonl").write_bytes('{"a": "é"}'.encode("latin-1"))
    (bot.inbox / "cut.parquet").write_bytes(b"PAR1 and nothing more")
    done, said = learn(bot)
    assert done.verdict.is_promoted
    assert (bot.quarantine / "cut.parquet").exists()
    assert "no whole Parquet" in (bot.quarantine / "cut.parquet.reason.txt").read_text()
    (row,) = read_jsonl(bot.quarantine / "latin.jsonl.rows.jsonl")
    assert "not UTF-8" in row["reason"]
    (row,) = read_jsonl(bot.quarantine / "faq.jsonl.rows.jsonl")
    assert row["line"] == 21
    assert any(line.startswith("Quarantined: faq.jsonl:21: ") for line in said)
    assert {r["file"] for r in done.version.report["data"]["refused"]} == {
        "faq.jsonl",
        "latin.jsonl",
        "cut.parquet",
    }


@pytest.mark.slow
def test_a_refused_version_is_the_candidate_and_its_files_stay(bot):
    drop(bot, "faq")
    done, _ = learn(bot, "gate.max_guard_ratio=0.01")
    assert not done.verdict.is_promoted
    aliases = releases.read(bot.releases).aliases
    assert aliases == {"production": "v0000", "candidate": "v0001"}
    assert [p.name for p in bot.inbox.iterdir()] == ["faq.jsonl"]
    assert run.promote(bot.folder, "candidate") == "v0001"
    assert learn(bot)[0] is None
    assert list(bot.inbox.iterdir()) == []


def test_rollback_restores_version_and_memory(bot):
    teach(bot, "faq", "news")
    assert run.rollback(bot.folder, None) == ("v0002", "v0001")
    assert store.get(bot, "production").memory.rows["replay"][0].group == "faq"
    drop(bot, "shop")
    done, _ = learn(bot)
    assert (done.version.id, done.version.parent) == ("v0003", "v0001")
    assert list(done.version.scores.tasks) == ["v0001 faq", "v0003 shop"]
    assert run.rollback(bot.folder, "v0002") == ("v0003", "v0002")
    with pytest.raises(VersionError, match="v0002 is the released version already"):
        run.rollback(bot.folder, "v0002")


@pytest.mark.slow
def test_rollback_brings_back_what_strategies_measured(bot):
    strategies = "strategies=[{type: ewc}, {type: merge, method: ema}]"
    kept = []
    for name in ("faq", "news"):
        drop(bot, name)
        done, _ = learn(bot, strategies)
        kept.append(done.version.memory)
    assert not all(torch.equal(t, kept[1].tensors[k]) for k, t in kept[0].tensors.items())
    run.rollback(bot.folder, None)
    again = store.get(bot, "production").memory
    assert again.numbers == kept[0].numbers
    assert again.tensors.keys() == kept[0].tensors.keys()
    assert all(torch.equal(t, again.tensors[k]) for k, t in kept[0].tensors.items())


@pytest.mark.slow
def test_a_strategy_whose_memory_the_parent_lacks_says_that_it_begins_empty(bot):
    drop(bot, "faq")
    learn(bot, "strategies=naive")
    drop(bot, "news")
    done, said = learn(bot, "strategies=[replay, ewc]")
    assert any("no old rows are mixed in" in line for line in said)
    assert any("no weight is held" in line for line in said)
    assert {row.group for row in done.version.memory.rows["replay"]} == {"news"}


def test_rollback_without_a_past_is_refused(bot):
    with pytest.raises(VersionError, match="nothing was released before v0000"):
        run.rollback(bot.folder, None)


@pytest.mark.slow
def test_a_round_begun_with_other_settings_is_begun_anew(bot):
    drop(bot, "faq")
    with pytest.raises(VersionError, match="the disk is full|needs about"):
        interrupted_by_full_disk(bot)
    assert store.ids(bot) == ["v0000"]
    _, said = learn(bot, "training.epochs=1")
    assert any("begun anew: training changed" in line for line in said)


def interrupted_by_full_disk(workspace):
    """A round whose files may not grow beyond those of its rows, as on a full disk."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, hard))
    try:
        learn(workspace)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing_half_made_and_the_round_goes_on(bot):
    drop(bot, "faq")
    with pytest.raises(VersionError, match="Nothing half-made was left as a version"):
        interrupted_by_full_disk(bot)
    assert store.ids(bot) == ["v0000"]
    assert [p.name for p in bot.inbox.iterdir()] == ["faq.jsonl"]
    done, said = learn(bot)
    assert done.verdict.is_promoted
    assert any("Going on with the interrupted round v0001" in line for line in said)


def test_a_crash_between_publishing_and_releasing_is_finished_by_the_next_start(bot):
    teach(bot, "faq")
    bot.releases.unlink()
    drop(bot, "faq")
    done, said = learn(bot)
    assert done.version.id == releases.read(bot.releases).production == "v0001"
    assert done.is_released
    assert said == ["Finishing the interrupted round v0001."]
    assert list(bot.inbox.iterdir()) == []
    assert learn(bot)[0] is None


def test_a_damaged_parent_is_refused_before_training(bot):
    version = teach(bot, "faq")
    (version.folder / "adapter/adapter_config.json").write_text("{}")
    drop(bot, "news")
    with pytest.raises(
        VersionError, match=r"adapter/adapter_config.json is missing or was changed"
    ):
        learn(bot)


@pytest.mark.slow
def test_a_kept_row_that_somebody_edited_is_left_out_of_the_next_round_and_counted(bot, caplog):
    version = teach(bot, "faq")
    path = version.folder / "memory/rows.jsonl"
    first, *others = path.read_text(encoding="utf-8").splitlines()
    edited = json.loads(first)
    edited["messages"][-1]["content"] = "假的"
    path.write_text("\n".join([json.dumps(edited), *others]) + "\n", encoding="utf-8")
    drop(bot, "news")
    done, _ = learn(bot)
    assert f"1 of {len(others) + 1} kept rows do not fit the hash" in caplog.text
    assert done.version.memory.numbers["replay.edited"] == 1
    assert "假的" not in (done.version.folder / "memory/rows.jsonl").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_kept_row_that_is_none_any_more_is_named(bot):
    version = teach(bot, "faq")
    path = version.folder / "memory/rows.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + "{broken\n", encoding="utf-8")
    number = len(path.read_text(encoding="utf-8").splitlines())
    drop(bot, "news")
    with pytest.raises(
        VersionError, match=rf"rows.jsonl: line {number} is no row.*remove the line"
    ):
        learn(bot)


@pytest.mark.slow
def test_where_rows_may_not_be_kept_no_taught_text_stays(bot):
    options = ("strategies=no-data", "data.keep_rows=false")
    drop(bot, "early")
    learn(bot, "strategies=[replay, merge]")  # a round that kept its rows
    path = drop(bot, "faq")
    taught = [row["output"] for row in read_jsonl(path)]
    mailed = [f"faq answer {i}: faq{i}@mail.example.org\u200b" for i in range(4)]
    lines = [json.dumps({"instruction": f"mail {i}?", "output": m}) for i, m in enumerate(mailed)]
    path.write_text(path.read_text() + "\n".join(lines) + "\n")
    done, _ = learn(bot, *options)
    assert done.version.report["data"]["samples"]
    assert done.version.memory.rows == {}
    assert done.verdict.is_promoted
    held_out = {row.answer for task in done.version.tasks() for row in task.rows}
    secret = [text.encode() for text in taught if text not in held_out]
    assert len(secret) > 10
    said = " ".join(held_out)
    cleaned = [start for i in range(4) if (start := f"faq answer {i}: ") not in said]
    assert cleaned
    gone = [*secret, *(start.encode() for start in cleaned)]
    for path in (path for path in bot.folder.rglob("*") if path.is_file()):
        content = b"" if "v0001" in path.parts else path.read_bytes()
        assert not [text for text in gone if text in content], path
    drop(bot, "faq")
    assert learn(bot, *options)[0] is None
    assert not (bot.cache / "data").exists()
    drop(bot, "faq", 30)
    done, said = learn(bot, *options)
    assert any(f"Dropped: {len(secret)} rows, taught before" in line for line in said), said
    assert 0 < done.version.num_rows <= 10


@pytest.mark.slow
def test_rows_of_which_hashes_are_left_are_known_by_other_program_versions_too(bot, monkeypatch):
    options = ("strategies=no-data", "data.keep_rows=false")
    drop(bot, "faq")
    learn(bot, *options)
    monkeypatch.setattr(signatures, "version", lambda: "another")
    drop(bot, "faq")
    assert learn(bot, *options)[0] is None


def test_another_base_model_is_refused(bot, tmp_path):
    drop(bot, "faq")
    other = make_tiny_model(tmp_path / "other", seed=7)
    with pytest.raises(ModelError, match="An adapter fits one base only"):
        learn(bot, f"model.base_model={other}")


@pytest.mark.slow
def test_a_changed_base_model_is_noticed(tmp_path):
    model = make_tiny_model(tmp_path / "model")
    workspace = run.init(tmp_path / "bot", str(model))
    workspace.settings.write_text(SETTINGS.format(model=model))
    drop(workspace, "faq")
    learn(workspace)
    make_tiny_model(model, seed=9)
    drop(workspace, "news")
    with pytest.raises(ModelError, match="changed since v0001 was made"):
        learn(workspace)


def test_a_gate_metric_that_is_not_measured_is_refused_at_once(bot):
    with pytest.raises(ConfigError, match=r"'bleu' is not among evaluation.metrics \(exact_match"):
        learn(bot, "gate.metric=bleu")


COMMAND = [sys.executable, "-m", "llama_factory", "learn"]
SLOWLY = ["--set", "training.max_steps=60"]


def kill_in_training(workspace, number, after_steps):
    process = subprocess.Popen(
        [*COMMAND, str(workspace.folder), *SLOWLY], stderr=subprocess.PIPE, text=True
    )
    metrics = workspace.building / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < after_steps:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)
    os.kill(process.pid, number)
    process.wait(60)
    return process


@pytest.mark.slow
def test_a_round_killed_in_the_middle_ends_with_the_loss_of_an_uninterrupted_one(
    bot, tiny, tmp_path
):
    drop(bot, "faq")
    whole = run.init(tmp_path / "whole", str(tiny))
    whole.settings.write_text(SETTINGS.format(model=tiny))
    drop(whole, "faq")
    learn(whole, SLOWLY[1])

    kill_in_training(bot, signal.SIGKILL, 20)
    assert store.ids(bot) == ["v0000"]
    assert [p.name for p in bot.inbox.iterdir()] == ["faq.jsonl"]
    assert not bot.releases.exists()
    again = subprocess.run(
        [*COMMAND, str(bot.folder), *SLOWLY], capture_output=True, text=True, check=True
    )
    assert "Going on with the interrupted round v0001" in again.stderr
    reports = [read_json(w.versions / "v0001/report.json") for w in (whole, bot)]
    assert reports[0]["training"]["loss"] == reports[1]["training"]["loss"]
    assert reports[0]["evaluation"]["tasks"] == reports[1]["evaluation"]["tasks"]


@pytest.mark.slow
def test_ctrl_c_leaves_the_workspace_as_it_was_and_the_round_resumable(bot):
    drop(bot, "faq")
    stopped = kill_in_training(bot, signal.SIGINT, 4)
    assert stopped.returncode == 130
    assert "go on from here when started again" in stopped.stderr.read()
    assert store.ids(bot) == ["v0000"]
    assert [p.name for p in bot.inbox.iterdir()] == ["faq.jsonl"]
    done, said = learn(bot, SLOWLY[1])
    assert any(line.startswith("Going on after step") for line in said)
    assert done.is_released


@pytest.mark.slow
def test_a_second_round_at_the_same_time_is_refused(bot, monkeypatch):
    drop(bot, "faq")
    real, refused = round._train, []

    def meanwhile(*args):
        refused.append(command("learn", bot.folder))
        return real(*args)

    monkeypatch.setattr(round, "_train", meanwhile)
    done, _ = learn(bot)
    assert done.is_released
    (second,) = refused
    assert second.returncode == 2
    assert f"process {os.getpid()} is already running a round here" in second.stderr


def test_opening_a_workspace_needs_its_settings(tmp_path):
    with pytest.raises(VersionError, match="is not a workspace"):
        Workspace.open(tmp_path)


@pytest.mark.slow
def test_a_corrected_answer_is_not_rehearsed_any_more(bot):
    drop(bot, "faq")
    drop(bot, "faq.test", count=3, start=100)
    first, _ = learn(bot)
    assert first.verdict.is_promoted
    corrected = {"instruction": "faq question 3?", "output": "faq answer is another one now."}
    (bot.inbox / "news.jsonl").write_text(json.dumps(corrected) + "\n")
    done, said = learn(bot)
    assert "Corrected: 1 rows of earlier rounds." in said
    answers = [row.answer for row in done.version.memory.rows["replay"]]
    assert "faq answer 3." not in answers
    assert "faq answer is another one now." in answers
    assert "faq answer 4." in answers


@pytest.mark.slow
def test_a_held_out_question_whose_answer_is_corrected_is_not_asked_any_more(bot):
    drop(bot, "faq")
    drop(bot, "faq.test", count=3, start=100)
    first, _ = learn(bot)
    assert first.version.scores.tasks["v0001 faq"].count == 3
    corrected = {
        "instruction": "faq.test question 101?",
        "output": "faq answer is another one now.",
    }
    (bot.inbox / "news.jsonl").write_text(json.dumps(corrected) + "\n")
    done, said = learn(bot)
    assert any("Retired: 1 held-out questions" in text for text in said)
    assert done.version.num_rows == 1
    assert done.version.scores.tasks["v0001 faq"].count == 2
    # the parent is measured on the same two questions
    before = EvalReport.from_json(done.version.report["before"])
    assert before.tasks["v0001 faq"].count == 2
    asked = {row.prompt[-1].content for task in store.tasks(done.version) for row in task.rows}
    assert asked == {"faq.test question 100?", "faq.test question 102?"}
    # both versions' rounds kept their answers to these, so that neither is asked again
    found = run.compare(bot.folder, (first.version.id, done.version.id), [], SILENT)
    assert {each.difference.count for each in found.scores} == {2}
    assert not (bot.folder / "evaluations").exists()


@pytest.mark.parametrize("kind", ["full", "freeze"])
def test_own_weights_are_refused_before_a_round_reads_anything(bot, kind):
    drop(bot, "first")
    bot.settings.write_text(f"model: {{base_model: nowhere, adapter: {{type: {kind}}}}}\n")
    with pytest.raises(ConfigError) as error:
        run.learn(bot.folder, [], SILENT)
    assert f"model.adapter: type {kind} trains the base model's own weights" in str(error.value)
    assert f"or train {kind} without a workspace: llama-factory train." in str(error.value)


@pytest.mark.slow
def test_rounds_of_plain_text_are_judged_by_likelihood(bot):
    lines = [f"Text number {i} about lamps, 第 {i} 篇文章。" for i in range(30)]
    (bot.inbox / "texts.txt").write_text("\n".join(lines), encoding="utf-8")
    first, _ = learn(bot, "training.objective=pretrain")
    assert first.verdict.is_promoted
    (task,) = first.version.scores.tasks.values()
    assert set(task.scores) == {"perplexity"}
    learned = next(check for check in first.verdict.checks if check.name == "learned")
    assert "v0001 texts (new): perplexity" in learned.reason


def test_a_reward_model_is_no_version(bot):
    with pytest.raises(ConfigError, match="a reward model judges answers, and the versions of a"):
        learn(bot, "training.objective=reward")


@pytest.fixture
def refusing(monkeypatch):
    """The gate refuses so many times whatever it sees."""
    from llama_factory.rounds import gate

    def refuse(times):
        left = [times]

        def decide(*args, **options):
            left[0] -= 1
            found = gate.decide(*args, **options)
            no = gate.Check("kept", passed=left[0] < 0, reason="what this test wants")
            return gate.Verdict((*found.checks, no))

        monkeypatch.setattr(round, "decide", decide)

    return refuse


MERGING = ("strategies=[{type: merge, alphas: [1.0, 0.5]}]",)


def update_of(version, tiny):
    settings = ModelSettings(
        base_model=str(tiny), dtype="float32", adapter={"type": "lora", "rank": 4}
    )
    model = adapt(settings, version.adapter, options=EncodeOptions(64), seed=0)
    layers, weights = low_rank_layers(model), model.trainable()
    return torch.cat([each.of(weights).dense().flatten() for each in layers.values()])


@pytest.mark.slow
def test_where_the_gate_refuses_a_round_gentler_ends_of_it_are_tried(bot, tiny, tmp_path, refusing):
    drop(bot, "faq")
    first, _ = learn(bot, *MERGING)
    whole = update_of(first.version, tiny)
    shutil.copytree(bot.folder, tmp_path / "again")
    again = Workspace(tmp_path / "again")
    for workspace, times, promoted, kept in (
        (bot, 1, True, ["as trained", "merge, alpha 0.5"]),
        (again, 2, False, ["merge, alpha 0.5", "as trained"]),
    ):
        drop(workspace, "news")
        refusing(times)
        done, said = learn(workspace, *MERGING)
        assert done.verdict.is_promoted == promoted
        assert [end["name"] for end in done.version.report["ends"]] == kept
        assert any("Refused as trained: what this test wants" in line for line in said)
    (half, candidate) = (update_of(store.get(each, "v0002"), tiny) for each in (bot, again))
    apart = float((candidate - whole).norm())  # the adapter's rank has no room for all of both
    assert float((half - (whole + candidate) / 2).norm()) < 0.3 * apart
    assert "Kept merge, alpha 0.5: all checks passed" in (
        run.report(bot.folder, "v0002", None).read_text()
    )
