import multiprocessing
import subprocess
import sys

import pytest

from llama_factory.core import files
from llama_factory.core.errors import VersionError


def test_a_failed_write_leaves_the_old_content_and_no_scraps(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"n": 1})
    script = (
        "import resource, sys; from pathlib import Path; from llama_factory.core import files\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"path = Path({str(path)!r})\n"
        "with files.reporting_full_disk(path.parent, what='saving'):\n"
        "    files.write_json(path, 'x' * 5000)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "the disk is full while saving" in run.stderr
    assert files.read_json(path) == {"n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_space_is_asked_for_before_anything_is_written(tmp_path):
    with pytest.raises(VersionError, match="nothing was written"):
        files.require_space(tmp_path, 10**18, what="a round here")


def hold(path, ready, release):
    with files.locked(path, what="working", seconds=0):
        ready.set()
        release.wait(20)


@pytest.mark.slow
def test_the_second_process_is_told_who_holds_the_lock(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    path = tmp_path / "x.lock"
    first = context.Process(target=hold, args=(path, ready, release))
    first.start()
    assert ready.wait(20)
    with (
        pytest.raises(VersionError, match=f"process {first.pid} is already working"),
        files.locked(path, what="working", seconds=0),
    ):
        pass
    release.set()
    first.join()
    with files.locked(path, what="working", seconds=5):
        pass


def test_publish_is_all_or_nothing(tmp_path):
    draft, final = tmp_path / ".draft", tmp_path / "v0001"
    files.write_text(draft / "a/b.txt", "text")
    files.publish(draft, final)
    assert not draft.exists()
    assert files.hash_folder(final) == {"a/b.txt": files.sha256(final / "a/b.txt")}
