"""What every round leaves for people to look at: numbers, pictures and a page, one and the same."""

import json
import re
import shutil
from dataclasses import replace

import pytest
from matplotlib import image

from llama_factory import run
from llama_factory.cli.tables import print_story
from llama_factory.core.files import read_json, read_jsonl
from llama_factory.evaluation.statistics import Estimate
from llama_factory.reports.page import draw, page
from llama_factory.rounds.gate import read_verdict
from llama_factory.versions import store
from llama_factory.versions.workspace import Workspace
from tests.cli.taught import invoke

SUMMARY = ("average", "learned", "backward_transfer", "forgetting", "forward_transfer")


def is_drawn(path):
    """Whether a picture is large and has more than a few colours."""
    pixels = image.imread(path)
    assert pixels.ndim == 3
    return (
        min(pixels.shape[:2]) > 200
        and len({tuple(p) for p in pixels[::4, ::4].reshape(-1, 4)}) > 20
    )


@pytest.fixture
def versions(bot):
    workspace = Workspace.open(bot)
    return [store.get(workspace, name) for name in store.ids(workspace)[1:]]


def paged(story):
    return page(story, draw(story))


@pytest.mark.slow
def test_every_version_of_a_round_has_pictures_and_a_page(versions):
    assert [version.id for version in versions] == ["v0001", "v0002"]
    for version in versions:
        assert is_drawn(version.folder / "forgetting.png")
        assert is_drawn(version.folder / "curves.png")
        page = (version.folder / "report.html").read_text(encoding="utf-8")
        assert page.count("data:image/png;base64,") == 2 * 2
        assert f"<h1>{version.id}</h1>" in page
        assert "after v0001" in page


def test_every_versions_report_tells_what_its_lineage_came_to(versions):
    first, second = (version.report for version in versions)
    assert first["forgetting"]["token_f1"]["tasks"] == ["v0001 faq"]
    found = second["forgetting"]["token_f1"]
    assert found["tasks"] == ["v0001 faq", "v0002 售后"]
    assert found["versions"] == ["v0001", "v0002"]
    assert [len(row) for row in (*found["matrix"], found["base"], found["untaught"])] == [2] * 4
    assert all(isinstance(found[name], float) for name in SUMMARY)
    assert second["drift"]["versions"] == ["v0001", "v0002"]
    assert len(second["drift"]["perplexity_ratio"]) == len(second["drift"]["divergence"]) == 2


def test_the_report_and_show_tell_the_same(bot, versions):
    shown = json.loads(invoke("show", bot, "v0002", "--json"))
    for name in ("intervals", "forgetting", "drift"):
        assert shown[name] == versions[-1].report[name]


def test_the_answers_behind_every_cell_are_kept(bot, versions):
    story = run.show(bot, "v0002")
    asked = {name: {row.task for row in rows} for name, rows in story.untaught.items()}
    assert asked == {"v0000": {"v0001 faq", "v0002 售后"}, "v0001": {"v0002 售后"}}
    assert not (versions[0].folder / "base.jsonl").exists()  # the base model was the parent
    (matrix,) = (m for m in story.matrices if m.metric == "token_f1")
    means = story.of_metric("token_f1")
    for version, scores in matrix.lines():
        for task, score in zip(matrix.tasks, scores, strict=True):
            assert means[version, task].value == pytest.approx(score)
    for version in versions:
        assert len(list(read_jsonl(version.folder / "guard.jsonl"))) > 10


def test_general_drift_has_intervals(versions):
    drift = versions[-1].report["drift"]
    for name in ("perplexity_ratio", "divergence"):
        for value, found in zip(drift[name], drift["intervals"][name], strict=True):
            assert found["low"] < found["value"] < found["high"]
            assert found["value"] == pytest.approx(value, rel=1e-2)


@pytest.mark.slow
def test_intervals_are_told_in_the_table_and_on_the_page(bot, capsys):
    story = run.show(bot, "v0002")
    found = {name: Estimate(0.5, 0.4 - 0.01 * n, 0.61, 8) for n, name in enumerate(SUMMARY)}
    (matrix,) = (m for m in story.matrices if m.metric == "token_f1")
    sure = replace(story, matrices=[replace(matrix, intervals=found)])
    print_story(sure, read_verdict(story.report))
    told, shown = capsys.readouterr().out, paged(sure)
    for n, name in enumerate(SUMMARY):
        label, value = name.replace("_", " "), f"{matrix.summary[name]:.2f}"
        assert f"  {label} {value} (0.{40 - n} – 0.61)  " in told
        assert re.search(rf"<td>{label}</td>.*>{value}<.*>0\.{40 - n} – 0\.61<", shown)
    for estimate in sure.drift.divergence_intervals.values():
        sides = f"{estimate.low:.3f} – {estimate.high:.3f}"
        assert f"({sides})" in told
        assert f"<small>{sides}</small>" in shown


@pytest.mark.slow
def test_show_and_the_page_have_the_base_model_and_the_scores_before_teaching(bot):
    matrix = next(m for m in run.show(bot, "v0002").matrices if m.metric == "token_f1")
    told, shown = invoke("show", bot, "v0002"), paged(run.show(bot, "v0002"))
    assert f"({matrix.untaught['v0002 售后']:.2f})" in told.split("after v0001")[-1]
    for text in ("base model", "In brackets: before the task was taught."):
        assert text in told
        assert text in shown
    assert f"({matrix.base['v0002 售后']:.2f})" in shown


@pytest.mark.slow
def test_show_and_the_page_tell_what_strategies_cost_and_the_drift(bot, versions):
    told, shown = invoke("show", bot, "v0002"), paged(run.show(bot, "v0002"))
    assert "KL to the base model, nats a token: v0001 0." in told
    assert "seconds in its hooks" in shown
    for name, cost in versions[-1].report["strategies"].items():
        assert f"Strategy {name}: " in told
        assert f'<td>{name}</td><td class="number">{cost["hook_seconds"]:.1f}</td>' in shown
        assert f"{cost['bytes']:,}</td>" in shown


@pytest.mark.slow
def test_pictures_are_drawn_where_they_are_asked_for(bot, tmp_path):
    paths = tmp_path / "heat.png", tmp_path / "curves.png"
    told = invoke("show", bot, "v0002", "--picture", paths[0], "--curves", paths[1])
    assert all(map(is_drawn, paths))
    assert [f"Picture: {path}" in told for path in paths] == [True, True]
    untaught = invoke("show", bot, "v0000", "--picture", tmp_path / "none.png")
    assert "v0000 was taught nothing" in untaught
    assert not (tmp_path / "none.png").exists()


def test_a_version_made_before_answers_were_kept_is_told_all_the_same(bot, versions, tmp_path):
    shutil.copytree(bot, tmp_path / "old")
    for version in Workspace(tmp_path / "old").versions.iterdir():
        for name in ("before.jsonl", "base.jsonl", "guard.jsonl"):
            (version / name).unlink(missing_ok=True)
        manifest = read_json(version / "manifest.json")
        manifest["files"] = {k: v for k, v in manifest["files"].items() if (version / k).exists()}
        (version / "manifest.json").write_text(json.dumps(manifest))
    old = json.loads(invoke("show", tmp_path / "old", "v0002", "--json"))
    found = old["forgetting"]["token_f1"]
    assert found["forward_transfer"] is not None
    assert "forward_transfer" not in found["intervals"]
    assert old["drift"]["intervals"] == {"perplexity_ratio": [None] * 2, "divergence": [None] * 2}
