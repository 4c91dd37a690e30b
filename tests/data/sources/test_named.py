import json
from pathlib import Path

import pytest

from llama_factory.core.errors import ConfigError, DataError
from llama_factory.core.types import TEXT, Example
from llama_factory.data.formats import Layout
from llama_factory.data.reading import to_example
from llama_factory.data.sources.files import rows_of
from llama_factory.data.sources.hub import HubSet
from llama_factory.data.sources.named import local_names, named_sources, well_known

REAL = Path(__file__).parents[4] / "shared" / "data" / "llamafactory"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the public demo sets are not here")


def described(folder, **entries):
    (folder / "dataset_info.json").write_text(json.dumps(entries, indent=2))
    return folder


def examples_of(source):
    return [
        to_example(row, group=source.name, file="f", layout=source.layout, folder=REAL)
        for row in rows_of(source)
    ]


@needs_real
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("identity", 91),
        ("alpaca_en_demo", 999),
        ("alpaca_zh_demo", 1000),
        ("glaive_toolcall_en_demo", 300),
        ("dpo_en_demo", 300),
        ("dpo_zh_demo", 300),
        ("kto_en_demo", 300),
        ("mllm_demo", 6),
        ("wiki_demo", 30),
        ("c4_demo", 300),
    ],
)
def test_every_row_of_the_public_demo_sets_is_an_example(name, count):
    (source,) = named_sources([name], REAL)
    if source.path.suffix == ".json":
        assert len(json.loads(source.path.read_text())) == count
    examples = examples_of(source)
    assert len(examples) == count
    assert all(isinstance(example, Example) for example in examples)


@pytest.mark.slow
@needs_real
def test_the_demo_sets_are_what_their_entries_say():
    sets = {source.name: examples_of(source) for source in named_sources(local_names(REAL), REAL)}
    assert all(
        example.rejected for name in ("dpo_en_demo", "dpo_zh_demo") for example in sets[name]
    )
    assert sum(example.is_desirable for example in sets["kto_en_demo"]) == 150
    assert all(Path(image).is_file() for row in sets["mllm_demo"] for image in row.images)
    assert all(row.images for row in sets["mllm_demo"])
    raw = json.loads((REAL / "glaive_toolcall_en_demo.json").read_text())
    offered = [bool(json.loads(row["tools"])) for row in raw]
    assert [bool(row.tools) for row in sets["glaive_toolcall_en_demo"]] == offered
    called = [t for row in sets["glaive_toolcall_en_demo"] for t in row.messages if t.tool_calls]
    assert len(called) == 211
    assert all(
        row.messages[0].role == TEXT for name in ("wiki_demo", "c4_demo") for row in sets[name]
    )


@needs_real
def test_the_well_known_names_are_those_of_llama_factory():
    entries = json.loads((REAL / "dataset_info.json").read_text())
    assert len(well_known()) >= 80
    for name, entry in well_known().items():
        theirs = {field: value for field, value in entries[name].items() if field != "om_hub_url"}
        assert dict(entry) == theirs


def test_well_known_names_need_no_dataset_info(tmp_path, monkeypatch):
    monkeypatch.delenv("USE_MODELSCOPE_HUB", raising=False)
    alpaca, chat = named_sources(["alpaca_gpt4_zh", "ultrachat_200k"], tmp_path)
    assert alpaca.hub == HubSet("llamafactory/alpaca_gpt4_zh")
    assert (chat.name, chat.hub.split) == ("ultrachat_200k", "train_sft")
    assert chat.layout.tags.user_tag == "user"
    assert chat.layout.tags.system_tag is None


@pytest.mark.parametrize("value", ["1", "true", "True"])
def test_modelscope_is_used_where_the_environment_asks_for_it(tmp_path, monkeypatch, value):
    monkeypatch.setenv("USE_MODELSCOPE_HUB", value)
    guanaco, lima = named_sources(["guanaco", "lima"], tmp_path)
    assert guanaco.hub == HubSet("AI-ModelScope/GuanacoDataset", is_modelscope=True)
    assert lima.hub == HubSet("llamafactory/lima")
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "0")
    guanaco, deep = named_sources(["guanaco", "deepctrl"], tmp_path)
    assert not guanaco.hub.is_modelscope
    assert deep.hub.is_modelscope


def test_an_entry_says_where_rows_lie_and_how_many_to_take(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"q": "问", "a": "答"}\n')
    (tmp_path / "parts").mkdir()
    columns = {"prompt": "q", "response": "a"}
    folder = described(
        tmp_path,
        mine={"file_name": "rows.jsonl", "columns": columns, "num_samples": 7, "file_sha1": "x"},
        many={"file_name": "parts"},
        lima={"hf_hub_url": "me/lima", "subset": "s", "split": "t", "folder": "f", "revision": "r"},
        gone={"file_name": "gone.json"},
    )
    mine, many, lima = named_sources(["mine", "many", "lima"], folder)
    assert (mine.path, mine.num_samples) == (folder / "rows.jsonl", 7)
    assert mine.pictures == folder
    assert mine.layout == Layout.of({"columns": columns})
    assert many.path == folder / "parts"
    assert lima.hub == HubSet("me/lima", "t", "s", "f", "r")
    assert local_names(folder) == ["mine", "many"]
    (example,) = examples_of(mine)
    assert (example.answer, example.group) == ("答", "mine")


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"file_name": "gone.json"}, "file_name 'gone.json' is missing from '"),
        ({"file_name": "rows.json"}, "is missing from '.*'. Did you mean 'rows.jsonl'"),
        ({"file_name": "../x.json"}, r"file_name '../x.json' lies outside the folder '.*'. Copy"),
        ({"file_name": "/etc/passwd"}, "file_name '/etc/passwd' lies outside the folder"),
        ({"file_name": "link.json"}, "file_name 'link.json' lies outside the folder"),
        ({"script_url": "load"}, "script_url names a program that would run on this machine"),
        ({"om_hub_url": "a/b"}, "no file_name, .*; only Hugging Face and ModelScope are read."),
        ({}, "it has no file_name, hf_hub_url or ms_hub_url."),
        ({"file_nmae": "a"}, "'file_nmae' is unknown. Did you mean 'file_name'"),
        ({"file_name": 3}, "file_name must be text, not 3."),
        ({"file_name": "rows.jsonl", "num_samples": 0}, "num_samples must be a whole number of"),
        ({"file_name": "rows.jsonl", "columns": {"promt": "q"}}, "columns: 'promt' is unknown"),
        ([], "must be an object."),
    ],
)
def test_a_wrong_entry_is_told_with_its_line(tmp_path, entry, told):
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "link.json").symlink_to("/etc/passwd")
    folder = described(tmp_path, first={}, mine=entry)
    with pytest.raises(DataError, match=rf"dataset_info.json:3: 'mine': .*{told}"):
        named_sources(["mine"], folder)


def test_a_name_that_is_not_there_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError) as caught:
        named_sources(["alpaca_gpt4_hz"], tmp_path)
    told = (
        f"there is no {tmp_path}/dataset_info.json, and dataset 'alpaca_gpt4_hz' is no well-known "
        "one. Did you mean 'alpaca_gpt4_zh'?"
    )
    assert str(caught.value) == told
    described(tmp_path, shop={}, faq={})
    with pytest.raises(ConfigError, match="Did you mean 'shop'. It has: shop, faq."):
        named_sources(["shp"], tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{\n  "a": {},\n}', r"dataset_info.json:3: not valid JSON \(.*, column 1\)."),
        ("[]", "dataset_info.json: must be one object, with an entry for each name."),
        ("\udcff", r"dataset_info.json: cannot be read \(.*\). Save it as UTF-8."),
    ],
)
def test_a_broken_dataset_info_is_told(tmp_path, text, told):
    (tmp_path / "dataset_info.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=told):
        named_sources(["a"], tmp_path)
