"""What gate, loop and journal state, in Chinese: each kind has a text, and files keep the kinds."""

import ast
import copy
import html
import importlib
import pickle
import re
import string
from pathlib import Path

import pytest

from llama_factory import oversee, web
from llama_factory.core import files
from llama_factory.core.sentences import (
    KINDS,
    Sentence,
    SentenceKind,
    keep_kinds,
    kind_of_sentence,
    listed,
    restore_kinds,
)
from llama_factory.rounds import gate_sentences as gate
from llama_factory.rounds import loop_sentences as loop
from llama_factory.rounds.check import Check
from llama_factory.versions import releases
from llama_factory.versions.journal import Journal, JournalEntry
from llama_factory.versions.version import REPORT
from llama_factory.web.sentences import BY_WORDS, NESTED, read_translations, translate_sentence

HELD = (("'a' is empty.", "'a' 为空。"), (" Did you mean 'a'?", "是否指 'a'？"))
"""What a problem may hold, and the same in Chinese."""
READING = ("data/readers", "data/formats", "data/reading.py", "data/sources/inbox.py")
SOURCE = Path(web.__file__).parents[1]


def names_of(text):
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@pytest.fixture(scope="module")
def kinds():
    """All kinds that are defined anywhere."""
    for path in SOURCE.rglob("*.py"):
        if "kind_of_sentence" in path.read_text(encoding="utf-8"):
            name = path.relative_to(SOURCE.parent).with_suffix("").as_posix().replace("/", ".")
            importlib.import_module(name.removesuffix(".__init__"))
    return KINDS


def test_every_kind_has_a_chinese_text_with_the_same_values(kinds):
    chinese = read_translations("zh")
    assert len(kinds) > 60
    assert set(chinese) == set(kinds)
    for name, kind in kinds.items():
        assert names_of(chinese[name]) == names_of(kind.english), name
        has_words = any(letter.isalpha() for letter in re.sub(r"{\w+}", "", kind.english))
        assert any(letter >= "\u4e00" for letter in chinese[name]) or not has_words, name


def test_a_sentence_is_its_text_and_outlives_copies_and_files():
    inner = loop.DECIDED(version="v0003")
    outer = listed([gate.HELD(why=inner), "plain"])
    assert outer == "held: decided in v0003; plain"
    for made in (copy.deepcopy(outer), pickle.loads(pickle.dumps(outer))):
        assert translate_sentence("zh", made) == "暂缓：已在 v0003 中决定；plain"
    kept = keep_kinds({"why": outer, "all": [inner], "n": 1})
    assert kept["why"] == "held: decided in v0003; plain"
    back = restore_kinds(kept)
    assert back == {"why": outer, "all": [inner], "n": 1}
    assert translate_sentence("zh", back["all"][0]) == "已在 v0003 中决定"


def test_what_has_no_kind_stays_as_it_is_unless_its_text_is_known():
    assert translate_sentence("zh", "something old") == "something old"
    assert translate_sentence("zh", "rolled back") == "已回滚"
    assert translate_sentence("en", releases.ROLLED_BACK()) == "rolled back"
    strange = Sentence("x", "no.such_kind", {})
    assert translate_sentence("zh", strange) == "x"
    assert translate_sentence("zh", Sentence("y", "loop.decided", {})) == "y"


@pytest.mark.parametrize(
    "record",
    [
        {"why": "x", "sentences": 5},
        {"why": "x", "sentences": {"why": {"kind": "loop.decided"}}},
        {"why": "x", "sentences": {"why": {"text": "other", "kind": "a", "values": {}}}},
    ],
)
def test_damaged_kinds_leave_the_text(record):
    assert restore_kinds(record) == {"why": "x"}
    assert not isinstance(restore_kinds(record)["why"], Sentence)


def test_two_kinds_never_share_a_name():
    with pytest.raises(ValueError, match="two kinds"):
        kind_of_sentence("gate.held", "otherwise")
    assert KINDS["gate.held"] == SentenceKind("gate.held", "held: {why}")


def test_checks_journal_and_releases_keep_the_kinds(bot):
    check = Check("kept", False, gate.ONE_OF_MANY(text="v0001 faq", count=3))
    assert Check.from_json(check.to_json()) == check
    assert translate_sentence("zh", Check.from_json(check.to_json()).reason).startswith(
        "v0001 faq；"
    )
    assert Check.from_json({"name": "kept", "passed": True, "reason": "old"}).reason == "old"
    book = Journal(bot.journal)
    book.add(JournalEntry("round ended", "watcher", data={"text": loop.NOTHING_NEW(), "n": 1}))
    (event,) = book.events()
    assert event.data == {"text": "nothing new to learn", "n": 1}
    assert translate_sentence("zh", event.data["text"]) == "没有新内容可学"
    releases.hold(bot.releases, "v0002", gate.REFUSED(why=check.reason))
    assert translate_sentence("zh", releases.read(bot.releases).history[-1].why).startswith(
        "已拒绝"
    )


def test_the_pages_state_it_in_the_visitors_language(bot, page):
    reason = gate.OLD_BEYOND(task="v0001 faq", change="f1 0.9 -> 0.1", limit="0.02")
    path = bot.versions / "v0002" / REPORT
    checks = [Check("kept", False, reason).to_json()]
    report = files.read_json(path) | {"verdict": {"promoted": False, "checks": checks}}
    files.write_json(path, report)
    for address in ("/", "/versions/v0002", "/rounds"):
        text = html.unescape(page.text(address, **{"accept-language": "zh"}))
        assert "v0001 faq（旧）：f1 0.9 -> 0.1，超过允许的下降 0.02" in text
        assert "more than the allowed drop" in page.text(address)
    oversee.pause(bot, "ann")
    text = html.unescape(page.text("/", **{"accept-language": "zh"}))
    assert "没有等待学习的内容；ann 自 " in text
    assert "已在" not in text
    assert "暂停" in page.text("/monitor", **{"accept-language": "zh"})


def test_each_problem_is_known_by_its_words_and_keeps_its_values(kinds):
    known = [kind for name, kind in kinds.items() if name.startswith(BY_WORDS)]
    assert len(known) > 180
    for kind in known:
        names = sorted(names_of(kind.english))
        values = {name: f"<{name}-{number}>" for number, name in enumerate(names)}
        values |= {name: HELD[name == "hint"][0] for name in names if name in NESTED}
        text = kind(**values)
        found = kind.values_in(text)
        assert found == values, kind.name
        shown = translate_sentence("zh", str(text))
        if " " in text:
            assert any(letter >= "\u4e00" for letter in shown), (kind.name, shown)
            for value in values.values():
                assert dict(HELD).get(value, value) in shown, kind.name


def test_readers_and_formats_say_nothing_but_kinds():
    plain = []
    for place in READING:
        path = SOURCE / place
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                name = getattr(getattr(call, "func", None), "id", "")
                is_error = name in ("BadRowError", "DataError") and file.name != "layout.py"
                if is_error and isinstance(call.args[0], ast.JoinedStr | ast.Constant):
                    plain.append(file.name)
    assert plain == ["streams.py"]  # the reason within another one


@pytest.mark.parametrize(
    ("text", "chinese"),
    [
        (
            "message 3: role 'asistant' is unknown. Did you mean 'assistant'? Known: user.",
            "第 3 条消息：未知的角色 'asistant'。是否指 'assistant'？已知：user。",
        ),
        (
            "faq.jsonl:3: this line is not valid JSON (Expecting ',' delimiter, column 5). "
            "The file may be half-written.",
            "faq.jsonl:3：这一行不是有效的 JSON（缺少分隔符 ','，第 5 列）。文件可能没有写完。",
        ),
        ("'text' must be text, this is a list.", "'text' 必须是文本，这里是列表。"),
        ("its header cannot be read: who knows", "无法读取其表头：who knows"),
    ],
)
def test_what_is_known_by_its_words_is_translated_with_what_it_holds(text, chinese):
    assert translate_sentence("zh", text) == chinese
    assert translate_sentence("en", text) == text


@pytest.mark.parametrize(
    "text",
    ["a: b", "'x': nothing known", "message hello", "null", "paths", "a: " * 900, "x" * 5000, ""],
)
def test_what_is_not_known_stays_as_it_is(text):
    assert translate_sentence("zh", text) == text


def test_refused_rows_and_damaged_files_are_told_in_chinese(bot, page):
    files.write_jsonl(
        bot.quarantine / "faq.jsonl.rows.jsonl",
        [{"line": 3, "reason": "'output' is missing; the row has input.", "row": "{}"}],
    )
    (bot.quarantine / "b.csv").write_text("a,a\n")
    (bot.quarantine / "b.csv.reason.txt").write_text(
        "two columns of its header are called 'a'. Rename one.\n"
    )
    chinese = {"accept-language": "zh"}
    shown = html.unescape(page.text("/data", **chinese))
    assert "缺少 'output'；该行有 input。" in shown
    assert "表头中有两列都叫 'a'。请给其中一列改名。" in shown
    assert "'output' is missing; the row has input." in html.unescape(page.text("/data"))
    missing = html.unescape(page.get("/versions/v0077", **chinese).text)
    assert "没有版本 'v0077'。" in missing
    assert str(bot.folder) not in missing
    (bot.folder / "notes.json").write_text("[")
    (bot.versions / "v0001" / REPORT).write_text("{")
    assert "缺失或已损坏" in page.text("/versions", **chinese)
    assert "找不到页面" in page.get("/nowhere", **chinese).text
    assert "没有事件 'x'" in html.unescape(page.get("/monitor?what=x", **chinese).text)
    tagged = page.post("/versions/v0001/tag", {"name": "Not A Tag"}, **chinese)
    assert "不能作为标签" in tagged.text


PASSED_ON = {
    ("model/settings.py", "_is_known"): "of model/chat/templates, with a kind",
    ("rounds/settings.py", "_knows_tool_format"): "of model/chat/templates, with a kind",
    ("rounds/settings.py", "_make_sense"): "of REASONS",
    ("rounds/settings.py", "_can_share"): "of REASONS",
    ("rounds/settings.py", "_keep_no_rows"): "of REASONS",
}
"""Validators that raise what others found, whose sentences are looked at there."""
ASKED_BY_VALIDATORS = (
    *("read_duration", "_not_negative", "check_zone", "_known", "_often", "address", "expand"),
    *("find", "require_known"),
)
REASONS = (
    "problems",
    "conflicts",
    "_misfits",
    "_too_little_new",
    "rows_kept_by",
    "_needing_whole_rows",
)
"""Functions that give reasons why settings do not fit each other."""
NO_SETTINGS = ("serving/protocol", "serving/keys.py", "web/", "config/dialects/", "cli/")


def _is_of_kind(node):
    return isinstance(node, ast.Call) and getattr(node.func, "id", "").isupper()


def _validators():
    """Every function of the package that may refuse the value of a setting."""
    for path in sorted(SOURCE.rglob("*.py")):
        place = path.relative_to(SOURCE).as_posix()
        if place.startswith(NO_SETTINGS):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                words = " ".join(map(ast.unparse, node.decorator_list))
                asked = node.name in ASKED_BY_VALIDATORS or node.name in REASONS
                if "_validator(" in words or asked:
                    yield place, node


def test_validators_of_settings_say_nothing_but_kinds():
    plain, num = [], 0
    for place, function in _validators():
        for node in ast.walk(function):
            error = getattr(node, "exc", None) if isinstance(node, ast.Raise) else None
            said = (
                error.args
                if getattr(getattr(error, "func", None), "id", "") == "ValueError"
                else ()
            )
            is_reason = isinstance(node, ast.Yield) and function.name in (*REASONS, "problems")
            said = [node.value] if is_reason else said
            num += len(said)
            if said and not _is_of_kind(said[0]) and (place, function.name) not in PASSED_ON:
                plain.append(f"{place}:{node.lineno} {function.name}")
    assert plain == []
    assert num > 60


@pytest.mark.parametrize(
    ("values", "chinese"),
    [
        ({"training.early_stopping_steps": 3}, "决定何时测量的 eval_steps 为空"),
        (
            {"training.eval_steps": 1.5},
            "小于 1 的训练比例，或 `epoch`；当前值为 1.5。",
        ),
        ({"model.template": "qwne"}, "'qwne' 不是这里已知的模板。是否指 'qwen'？"),
        ({"data.tool_format": "qwne"}, "data.tool_format：'qwne' 不是这里已知的工具写法。"),
        ({"model.replace_template": True}, "但 template 没有写名称"),
        (
            {"model.adapter": {"type": "lora", "init": "olara"}},
            "初始化方式。是否指 'olora'？",
        ),
        ({"model.adapter": {"type": "qlora", "init": "pissa"}}, "压缩过的权重无法分解"),
        ({"loop.timezone": "Asia/Shangai"}, "没有时区 'Asia/Shangai'。是否指 'Asia/Shanghai'？"),
        ({"loop.settle_seconds": "soon"}, "必须是数字"),
        ({"strategies": "defualt"}, "'defualt' 不是预设。是否指 'default'？"),
        ({"strategies": "ewc"}, "'ewc' 是一个策略，不是预设。"),
        (
            {
                "strategies": [{"type": "olora"}, {"type": "merge"}],
                "model.adapter": {"type": "ia3"},
            },
            "请去掉其中一个。olora 给每一轮一个 LoRA 适配器的一部分，而 model.adapter 为 ia3。",
        ),
        ({"strategies": [{"type": "ewc"}, {"type": "ewc"}]}, "ewc 给出了 2 次"),
        (
            {"training.parallel": {"type": "fsdp"}, "model.dtype": "float16"},
            "损失经过缩放",
        ),
    ],
)
def test_rules_between_settings_are_told_in_chinese(values, chinese):
    from pydantic import ValidationError

    from llama_factory.config.loading import flat_problems
    from llama_factory.config.schema import RunConfig

    nested = {}
    for name, value in values.items():
        section, _, key = name.partition(".")
        if key:
            nested.setdefault(section, {})[key] = value
        else:
            nested[section] = value
    with pytest.raises(ValidationError) as refused:
        RunConfig.model_validate(nested)
    told = [str(text) for _, text in flat_problems(refused.value.errors())]
    shown = " ".join(translate_sentence("zh", text) for text in told)
    assert chinese in shown, (told, shown)
