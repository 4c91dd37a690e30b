import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llama_factory.core.errors import DataError
from llama_factory.core.progress import SILENT
from llama_factory.data import intake, source_cache
from llama_factory.data.cleaning import CLEANERS
from llama_factory.data.intake import CleanSource, clean_sources
from llama_factory.data.sources.files import source_of
from llama_factory.data.store import join_parts
from tests.data.rows import write

STEPS = [CLEANERS.parse("unicode"), CLEANERS.parse({"type": "length", "min_answer": 5})]


def rows(count, word="fine"):
    return [
        {"instruction": f"Question {i}?\r\n", "output": f"Answer {i} {word}."} for i in range(count)
    ]


def taken(path, cache, num_workers=1):
    (result,) = clean_sources(
        [source_of(path)], STEPS, cache, num_workers=num_workers, progress=SILENT
    )
    return result


def lines(result):
    table = join_parts(result.parts, Path(tempfile.mkdtemp()))
    return [table.row(number) for number in range(len(table))]


def test_steps_change_and_drop_rows_and_all_is_counted_with_samples(tmp_path):
    path = write(tmp_path / "a.jsonl", [*rows(5), {"instruction": "Q?", "output": "no"}, {"x": 1}])
    result = taken(path, tmp_path / "cache")
    assert [row.messages[0].content for row in lines(result)] == [
        f"Question {i}?" for i in range(5)
    ]
    counts = result.counts
    assert (counts.num_rows, counts.num_refused, counts.changed) == (7, 1, {"unicode": 5})
    assert [(step, count) for (step, _), count in counts.dropped.items()] == [("length", 1)]
    assert [(s.step, s.line) for s in counts.samples] == [
        ("unicode", 1),
        ("unicode", 2),
        ("unicode", 3),
        ("length", 6),
    ]
    assert [(row.file, row.line) for row in result.refused_rows()] == [("a.jsonl", 7)]


def test_a_file_is_read_once_and_again_when_content_or_steps_change(tmp_path, monkeypatch):
    path = write(tmp_path / "a.jsonl", rows(5))
    first = taken(path, tmp_path / "cache")
    read = []
    monkeypatch.setattr(intake, "rows_of", lambda source: read.append(source) or iter(()))
    assert taken(path, tmp_path / "cache").parts == first.parts
    assert read == []
    write(path, rows(6))
    taken(path, tmp_path / "cache")
    assert len(read) == 1
    clean_sources([source_of(path)], STEPS[:1], tmp_path / "cache", num_workers=1, progress=SILENT)
    assert len(read) == 2


@pytest.mark.slow
def test_processes_give_the_same_rows_in_the_same_order(tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "BYTES_WORTH_WORKERS", 0)
    monkeypatch.setattr(intake, "BATCH_ROWS", 7)
    path = write(tmp_path / "a.jsonl", [*rows(50), {"x": 1}])
    one, two = taken(path, tmp_path / "1", 1), taken(path, tmp_path / "2", 2)
    assert lines(one) == lines(two)
    assert one.counts == two.counts


def test_a_killed_run_goes_on_after_the_last_whole_part(tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "PART_ROWS", 10)
    monkeypatch.setattr(intake, "BATCH_ROWS", 5)
    path = write(tmp_path / "a.jsonl", [*rows(17), {"x": 1}, *rows(20, "also")])
    whole = taken(path, tmp_path / "whole")

    cleaned = []
    real = intake._clean

    def dies(batch, **more):
        if batch[0].line > 20:
            raise KeyboardInterrupt
        return real(batch, **more)

    monkeypatch.setattr(intake, "_clean", dies)
    with pytest.raises(KeyboardInterrupt):
        taken(path, tmp_path / "cache")
    monkeypatch.setattr(
        intake, "_clean", lambda batch, **more: cleaned.append(batch) or real(batch, **more)
    )
    again = taken(path, tmp_path / "cache")
    assert cleaned[0][0].line == 21
    assert lines(again) == lines(whole)
    assert again.counts.num_rows == 38
    assert list(again.refused_rows()) == list(whole.refused_rows())


def test_one_unreadable_file_does_not_stop_the_others(tmp_path):
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"PAR1")
    good = write(tmp_path / "good.jsonl", rows(2))
    sources = [source_of(bad), source_of(good)]
    refused, result = clean_sources(
        sources, STEPS, tmp_path / "cache", num_workers=1, progress=SILENT
    )
    assert refused.line == 0
    assert isinstance(result, CleanSource)
    assert result.counts.num_rows == 2


def test_what_was_not_used_for_long_is_forgotten(tmp_path):
    cache = tmp_path / "cache"
    taken(write(tmp_path / "a.jsonl", rows(2)), cache)
    (done,) = cache.glob("*/done")
    long_ago = time.time() - 40 * 24 * 3600
    os.utime(done, (long_ago, long_ago))
    source_cache.begin_use(cache, ())
    assert [path for path in cache.iterdir() if path.is_dir()] == []


def taken_by_another(path, cache, barrier, found):
    """One of several processes that begin at the same moment; its rows, or what went wrong."""
    intake.BATCH_ROWS, intake.PART_ROWS = 3, 9
    barrier.wait(60)
    try:
        found.put([row.messages[0].content for row in lines(taken(path, cache))])
    except (OSError, ValueError, DataError) as error:
        found.put(repr(error))


@pytest.mark.slow
def test_several_processes_that_fill_one_cache_all_get_every_row(tmp_path):
    context = multiprocessing.get_context("spawn")
    path = write(tmp_path / "a.jsonl", rows(60))
    expected = [f"Question {i}?" for i in range(60)]
    barrier, found = context.Barrier(3), context.Queue()
    words = (path, tmp_path / "cache", barrier, found)
    crew = [context.Process(target=taken_by_another, args=words) for _ in range(3)]
    for each in crew:
        each.start()
    assert [found.get(timeout=60) for _ in crew] == [expected] * 3
    for each in crew:
        each.join()
    (folder,) = [each for each in (tmp_path / "cache").iterdir() if each.is_dir()]
    assert not list(folder.glob(".*"))
    assert len(list(folder.glob("part-*"))) == 7


@pytest.mark.slow
def test_several_threads_that_fill_one_cache_all_get_every_row(tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "BATCH_ROWS", 2)
    monkeypatch.setattr(intake, "PART_ROWS", 2)
    path = write(tmp_path / "a.jsonl", rows(30))
    with ThreadPoolExecutor(6) as crew:
        for attempt in range(3):
            cache = tmp_path / str(attempt)
            done = [crew.submit(lambda here=cache: lines(taken(path, here))) for _ in range(6)]
            assert {len(each.result()) for each in done} == {30}


def test_what_is_used_again_is_not_forgotten_by_another_process(tmp_path, monkeypatch):
    path, cache = write(tmp_path / "a.jsonl", rows(4)), tmp_path / "cache"
    (folder,) = {part.parent for part in taken(path, cache).parts}
    os.utime(folder / "done", (0, 0))
    opened, read = intake._clean_source, []

    def forget_meanwhile(*words):
        source_cache.begin_use(cache, ())  # as another process that begins now
        return opened(*words)

    monkeypatch.setattr(intake, "_clean_source", forget_meanwhile)
    monkeypatch.setattr(intake, "rows_of", lambda source: read.append(source) or iter(()))
    assert len(lines(taken(path, cache))) == 4
    assert read == []


def test_what_killed_processes_left_is_forgotten_in_time(tmp_path):
    path, cache = write(tmp_path / "a.jsonl", rows(4)), tmp_path / "cache"
    taken(path, cache)
    half, old = cache / ("a" * 32) / ".part-00000.0a1b2c3d", cache / ("b" * 32)
    for folder in (half, old):
        folder.mkdir(parents=True)
        (folder / "rows.jsonl").touch()
    os.utime(old, (0, 0))
    os.utime(half.parent, (0, 0))
    (cache / "columns").mkdir()
    os.utime(cache / "columns", (0, 0))
    source_cache.begin_use(cache, ())
    assert (cache / "columns").exists()
    assert not half.exists()
    assert not old.exists()
    assert len(lines(taken(path, cache))) == 4


@pytest.mark.slow
def test_a_script_that_calls_it_runs_once_however_many_processes_work(tmp_path):
    write(tmp_path / "a.jsonl", rows(50))
    (tmp_path / "script.py").write_text(
        "import sys\nfrom pathlib import Path\nfrom llama_factory import run\n"
        "from llama_factory.data import intake\n"
        "intake.BYTES_WORTH_WORKERS, intake.BATCH_ROWS = 0, 7\n"
        "print('begins', flush=True)\n"
        "path, settings = Path(sys.argv[1]), {'data': {'num_workers': 2}}\n"
        "print(sum(run.clean_data(path, settings=settings).kept.values()) > 40)\n"
    )
    command = [sys.executable, tmp_path / "script.py", tmp_path / "a.jsonl"]
    environment = {**os.environ, "LLAMA_FACTORY_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["begins", "True"], done.stderr
