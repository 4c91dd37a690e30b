"""`consolidate` on the command line, and what people are shown of its version."""

import json

import pytest

from tests.cli.taught import command, invoke

EASY = ("--set", "gate.max_guard_ratio=999", "--set", "gate.max_drop=1")


@pytest.mark.slow
def test_a_consolidated_version_is_told_and_drawn(bot):
    printed = invoke("consolidate", bot, *EASY)
    assert "pass  v0001 faq (old): token_f1" in printed
    assert "v0003 is promoted: rounds go on from it with a fresh adapter." in printed
    shown = invoke("show", bot, "v0003")
    assert "Consolidated: 1 update(s) are in the weights, and a fresh adapter begins." in shown
    assert "v0002 售后" in shown
    page = (bot / "versions" / "v0003" / "report.html").read_text(encoding="utf-8")
    assert "consolidated from v0002" in page
    assert "1 update(s) are in the weights" in page
    assert "0 rows" in page
    listed = invoke("versions", bot)
    assert "v0003" in listed
    compared = invoke("compare", bot, "v0002", "v0003")
    assert "v0001 faq" in compared


@pytest.mark.slow
def test_its_verdict_is_printed_as_json_and_what_it_refuses_is_one_message(bot):
    done = command("consolidate", bot)
    assert done.returncode == 2
    assert "v0003 was consolidated and taught nothing since" in done.stderr
    assert "Traceback" not in done.stderr
    invoke("rollback", bot)
    told = json.loads(invoke("consolidate", bot, "--json", *EASY).splitlines()[-1])
    assert told["version"] == "v0004"
    assert told["verdict"]["promoted"]
    assert {check["name"] for check in told["verdict"]["checks"]} == {"kept", "general"}
