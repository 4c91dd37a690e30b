import sys
import time

import pytest

from llama_factory.core.errors import ConfigError
from llama_factory.evaluation.metrics import pass_rate
from llama_factory.evaluation.metrics.pass_rate import PassRate
from tests.evaluation.metrics.rows import score

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits need a POSIX system")

TESTS = "assert add(2, 3) == 5\nassert add('你', '好') == '你好'"
RIGHT = "Here you are:\n```python\ndef add(a, b):\n    return a + b\n```\nGood luck!"
RUN = PassRate(allow_code=True, seconds=2, memory_mb=256)


def test_code_runs_only_where_it_is_allowed():
    with pytest.raises(ConfigError, match="'pass_rate' runs code that the model wrote. Set `allow"):
        PassRate().score(TESTS, RIGHT)


def test_answers_pass_whose_code_passes_the_expected_tests():
    wrong = "def add(a, b):\n    return 5"
    scores, total = score(RUN, (TESTS, RIGHT), (TESTS, wrong), (TESTS, "def add(a, b: return"))
    assert scores == [1, 0, 0]
    assert total == pytest.approx(1 / 3)


@pytest.mark.variants
@pytest.mark.parametrize(
    "bad",
    [
        "while True: pass",
        "x = bytearray(10**9)",
        "open('big', 'wb').write(b'0' * 10**8)",
        "raise SystemExit(0)",
        "import os; os._exit(0)",
        "open('passed', 'w').write('guess'); raise SystemExit(0)",
        "print('x' * 10**7); input()",
    ],
)
def test_endless_greedy_and_sly_programs_fail(bad):
    assert PassRate(allow_code=True, seconds=1, memory_mb=256).score("", bad) == 0


@pytest.mark.slow
def test_a_program_that_sleeps_is_ended(monkeypatch):
    monkeypatch.setattr(pass_rate, "START_SECONDS", 1)
    started = time.monotonic()
    assert PassRate(allow_code=True, seconds=1).score("", "import time; time.sleep(60)") == 0
    assert time.monotonic() - started < 30


def test_a_program_sees_neither_our_environment_nor_our_folder(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "s")
    program = "import os\nassert 'SECRET_KEY' not in os.environ\nassert os.listdir() == []"
    assert RUN.score("", program) == 1


def test_a_users_function_judges(tmp_path):
    file = tmp_path / "check.py"
    file.write_text("def check(expected, answer):\n    return expected in answer\n", "utf-8")
    metric = PassRate(allow_code=True, function=file)
    assert metric.score("退货", '我们的\'退货\'政策\n"""') == 1
    assert metric.score("退货", "没有") == 0


def test_a_function_that_is_missing_is_told(tmp_path):
    metric = PassRate(allow_code=True, function=tmp_path / "none.py")
    with pytest.raises(ConfigError, match=r"pass_rate\.function: .*none\.py is no file"):
        metric.check()
