"""Versions side by side, and a version's page, as a user asks for them."""

import json
import re

import pytest

from llama_factory import run
from llama_factory.core.errors import DataError, VersionError
from llama_factory.core.progress import SILENT
from tests.cli.taught import invoke

SAME = ("--set", "evaluation.max_new_tokens=6")


def test_two_versions_are_compared_on_the_rows_of_all_rounds(bot):
    found = json.loads(invoke("compare", bot, "v0001", "v0002", *SAME, "--json"))
    by_name = {(each["task"], each["metric"]): each for each in found["scores"]}
    assert {task for task, _ in by_name} == {"v0001 faq", "v0002 售后", "all rows"}
    for each in found["scores"]:
        value = each["difference"]["value"]
        assert value == pytest.approx(each["after"]["value"] - each["before"]["value"])
        assert each["difference"]["low"] <= value <= each["difference"]["high"]
    assert by_name["all rows", "token_f1"]["difference"]["count"] == 8
    for row in found["worse"]:
        assert row["score_after"] < row["score_before"]
    for row in found["better"]:
        assert row["score_after"] > row["score_before"]


def test_a_version_is_asked_only_what_its_round_did_not_ask(bot):
    invoke("compare", bot, "v0001", "v0002", *SAME)
    asked = bot / "evaluations"
    assert [path.name for path in asked.iterdir()] == ["v0001"]
    kept = sorted(path.name for path in (asked / "v0001/rounds").glob("*.jsonl"))
    assert len(kept) == 1
    assert kept[0].startswith("v0002-售后")


def test_the_table_names_versions_differences_and_rows(bot):
    told = invoke("compare", bot, "v0001", "v0002", *SAME)
    assert "difference (95 %)" in told
    assert "rows got worse" in told
    assert re.search(r"[+-]0\.\d{3} \([+-]\d\.\d{3} \.\. [+-]\d\.\d{3}\)", told)


def test_a_version_beside_itself_has_not_changed(bot):
    found = run.compare(bot, ("v0002", "v0002"), [SAME[1]], SILENT)
    assert {each.difference.value for each in found.scores} == {0.0}
    assert {each.is_better for each in found.scores} == {None}
    assert found.worse == found.better == ()


def test_a_workspace_that_was_taught_nothing_has_nothing_to_compare(tmp_path, tiny_model):
    run.init(tmp_path / "new", str(tiny_model))
    with pytest.raises(DataError, match="neither v0000 nor v0000 has held-out rows"):
        run.compare(tmp_path / "new", ("v0000", "production"), [], SILENT)
    with pytest.raises(VersionError, match="there is no version 'previous'"):
        run.compare(tmp_path / "new", ("previous", "production"), [], SILENT)


@pytest.mark.slow
def test_the_page_of_a_version_needs_no_other_file(bot, tmp_path):
    path = tmp_path / "page.html"
    assert invoke("report", bot, "v0002", "--output", path).strip() == str(path)
    page = path.read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 2 * 2  # a heat map and curves for each metric
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "v0002 售后" in page
    assert "taught from v0001" in page
    assert "general perplexity x" in page  # a reason of the verdict


@pytest.mark.slow
def test_texts_in_the_page_are_escaped(bot, tmp_path):
    path = run.report(bot, "v0002", tmp_path / "page.html")
    assert "<b>" not in path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_page_lies_in_the_workspace_unless_told_otherwise(bot):
    assert run.report(bot, "production", None) == bot / "reports/v0002.html"
    page = run.report(bot, "v0000", None).read_text(encoding="utf-8")
    assert "The untouched base model" in page


def test_show_tells_transfer_and_drift(bot):
    told = invoke("show", bot)
    assert "forward transfer" in told
    assert "General perplexity against the base model's: v0001 x" in told
    values = json.loads(invoke("show", bot, "--json"))
    assert values["drift"]["versions"] == ["v0001", "v0002"]
    assert values["forgetting"]["token_f1"]["untaught"][1] is not None
