"""Parts under one roof, as real processes: started again when they die, ended together."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llama_factory import operate
from llama_factory.config.template import settings_file
from llama_factory.core.errors import ConfigError
from llama_factory.jobs.supervisor import LONGEST_WAIT, Part, Supervisor, parts_of
from llama_factory.versions import store


def python(name, script):
    return Part(name, (sys.executable, "-c", script))


class Clock:
    """Stands still but when a restart is announced: then the time of the wait is over at once.

    However slow a machine starts a process, a part is never taken for one that was up for long.
    """

    def __init__(self):
        self.now, self.lines = 0.0, []

    def __call__(self):
        return self.now

    def say(self, line):
        self.lines.append(line)
        if "started again in" in line:
            self.now += LONGEST_WAIT


def wait_for(condition):
    while not condition():
        time.sleep(0.005)


def running(supervisor, stop):
    """The supervisor on a thread of its own; its error, if it raises one."""
    errors = []

    def run():
        try:
            supervisor.run(stop)
        except ConfigError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def is_alive(process_id):
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process_id}/stat").read_text().split()[2] != "Z"


def test_a_part_that_dies_is_started_again_and_the_others_are_left_alone():
    clock, stop = Clock(), threading.Event()
    lines = clock.lines
    steady = python("steady", "print('up'); import time; time.sleep(600)")
    weak = python("weak", "import os; print(os.getpid()); os.kill(os.getpid(), 9)")
    thread, _ = running(Supervisor([steady, weak], clock.say, clock=clock), stop)
    wait_for(lambda: sum(line.startswith("weak | was killed by signal 9") for line in lines) >= 3)
    stop.set()
    thread.join()
    assert sum(line == "steady | up" for line in lines) == 1
    waits = [line for line in lines if "started again in" in line]
    assert waits[0].endswith("in 1 s.")
    assert waits[1].endswith("in 2 s.")
    assert waits[2].endswith("in 4 s.")


def test_all_end_when_it_is_asked_to_stop_and_those_who_will_not_are_killed(monkeypatch):
    monkeypatch.setattr("llama_factory.jobs.supervisor.END_SECONDS", 0.3)
    lines, stop = [], threading.Event()
    tidy = python(
        "tidy",
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('bye'), sys.exit(0)))\n"
        "print('up'); time.sleep(600)",
    )
    deaf = python(
        "deaf",
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(os.getpid()); time.sleep(600)",
    )
    thread, _ = running(Supervisor([tidy, deaf], lines.append), stop)
    wait_for(lambda: len(lines) >= 2)
    stop.set()
    thread.join()
    assert "tidy | bye" in lines
    (process_id,) = (int(line.split(" | ")[1]) for line in lines if line.startswith("deaf"))
    assert not is_alive(process_id)


def test_settings_that_a_part_refuses_at_its_first_start_end_everything():
    lines, stop = [], threading.Event()
    good = python("good", "import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    bad = python("bad", "import sys, time; time.sleep(0.5); print('port 1 is in use'); sys.exit(2)")
    thread, errors = running(Supervisor([good, bad], lines.append), stop)
    thread.join()
    assert "bad did not start; its lines above say why" in str(errors[0])
    assert "bad | port 1 is in use" in lines
    (process_id,) = (int(line.split(" | ")[1]) for line in lines if line.startswith("good"))
    assert not is_alive(process_id)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties children to their parent")
def test_parts_end_with_a_supervisor_that_is_killed():
    script = (
        "import sys, threading\n"
        "from llama_factory.jobs.supervisor import Part, Supervisor\n"
        "part = Part('part', (sys.executable, '-c', "
        "'import os, time; print(os.getpid(), flush=True); time.sleep(600)'))\n"
        "Supervisor([part], lambda line: print(line, flush=True)).run(threading.Event())\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as roof:
        process_id = int(roof.stdout.readline().decode().split(" | ")[1])
        assert is_alive(process_id)
        roof.send_signal(signal.SIGKILL)
    wait_for(lambda: not is_alive(process_id))


@pytest.mark.parametrize(("has_page", "verb"), [(True, "web"), (False, "serve")])
def test_the_server_and_the_watcher_get_the_same_settings(has_page, verb):
    changes = ["serving.max_tokens=9"]
    server, watcher = parts_of("my-bot", changes, 8001, has_page=has_page)
    assert server.command[3:] == (
        *(verb, "my-bot", "--port", "8001"),
        *("--set", "serving.max_tokens=9"),
    )
    assert watcher.command[3:] == ("watch", "my-bot", "--set", "serving.max_tokens=9")


def test_the_page_is_left_out_where_nobody_could_log_in_to_it(tmp_path):
    folder = store.create_workspace(tmp_path / "bot", "tiny", settings_file("tiny")).folder
    lines, stop = [], threading.Event()
    stop.set()  # nothing is started
    operate.up(folder, ["serving.host=0.0.0.0"], log=lines.append, stop=stop)
    (line,) = lines
    assert "The API alone is served: --server_name or serving.host: 0.0.0.0" in line
    assert "users add NAME --role operator" in line
    operate.up(folder, [], log=lines.append, stop=stop)
    operate.add_user(folder, "ann", "operator", "correct horse")
    operate.up(folder, ["serving.host=0.0.0.0"], log=lines.append, stop=stop)
    assert lines == [line]
