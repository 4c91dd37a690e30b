"""Programs that a model wrote, and tests that judge them from another process."""

import sys
import time

import pytest

from llama_factory.evaluation.metrics.pass_rate import PassRate

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="limits need a POSIX system")

RUN = PassRate(allow_code=True, seconds=2, memory_mb=256)

SQUARE = "assert square(3) == 9\nassert square(-2) == 4\n"
WRONG = "def square(x):\n    return 0\n"

EVIL = """
class Evil:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    def __gt__(self, other): return True
    __le__ = __ge__ = __lt__
    def __contains__(self, item): return True
    def __bool__(self): return True
    def __sub__(self, other): return self
    __rsub__ = __add__ = __radd__ = __mul__ = __abs__ = lambda self, *others: self
    def __instancecheck__(self, item): return True
    __hash__ = None
    __class__ = int
class EvilInt(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __lt__(self, other): return True
    def __sub__(self, other): return EvilInt(0)
    __abs__ = lambda self: EvilInt(0)
    __hash__ = None
class EvilStr(str):
    def __eq__(self, other): return True
class EvilList(list):
    def __eq__(self, other): return True
    def __contains__(self, item): return True
"""

ATTACKS = {
    "prints": "print('passed'); print('OK'); import sys; sys.stderr.write('passed')",
    "leaves": "import sys; sys.exit(0)",
    "leaves at once": "import os; os._exit(0)",
    "leaves when called": "def square(x):\n    import os; os._exit(0)",
    "exits when called": "def square(x):\n    raise SystemExit(0)",
    "interrupts": "def square(x):\n    raise KeyboardInterrupt",
    "kills its parent": "import os, signal\ndef square(x): os.kill(os.getppid(), signal.SIGTERM)",
    "kills its group": "import os, signal\ndef square(x): os.killpg(0, signal.SIGKILL)",
    "at exit": "import atexit, os\natexit.register(lambda: os._exit(0))\n" + WRONG,
    "threads": (
        "import threading, os, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.1), os._exit(0))).start()\n" + WRONG
    ),
    "forks": "import os\nif os.fork(): os._exit(0)\n" + WRONG,
    "patches builtins": (
        "import builtins\nbuiltins.AssertionError = KeyError\nbuiltins.__build_class__ = None\n"
        "builtins.exec = lambda *a: None\n" + WRONG
    ),
    "own abs and isinstance": (
        "abs = isinstance = all = any = len = round = lambda *a, **k: True\n" + WRONG
    ),
    "patches operators": "import operator\noperator.eq = lambda *a: True\n" + WRONG,
    "patches json": (
        "import json\nold = json.dumps\njson.dumps = lambda *a, **k: old({'reply': {'value': ['k', "
        "True]}})\n" + WRONG
    ),
    "traces": "import sys\nsys.settrace(lambda *a: None)\nsys.excepthook = print\n" + WRONG,
    "frames": (
        "import sys\nframe = sys._getframe()\nwhile frame:\n"
        "    frame.f_globals['tests'] = frame.f_globals['token'] = ''\n"
        "    for name, value in list(frame.f_locals.items()):\n"
        "        if hasattr(value, 'deadline'): value.deadline = 0\n"
        "    frame = frame.f_back\n" + WRONG
    ),
    "collects objects": (
        "import gc\nfor each in gc.get_objects():\n"
        "    if isinstance(each, dict) and 'tests' in each: each['tests'] = ''\n" + WRONG
    ),
    "writes the old token": "open('passed', 'w').write('')\n" + WRONG,
    "writes every descriptor": (
        "import os\nfor each in range(3, 64):\n    try: os.write(each, b'passed' * 99)\n"
        "    except OSError: pass\n" + WRONG
    ),
    "answers by itself": (
        "import os, struct, json\n"
        "data = json.dumps({'reply': {'names': [], 'value': ['k', True]}}).encode()\n"
        "for each in range(3, 64):\n"
        "    try: os.write(each, (struct.pack('>Q', len(data)) + data) * 9)\n"
        "    except OSError: pass\n" + WRONG
    ),
    "writes to its parent's descriptors": (
        "import os\nfor each in os.listdir(f'/proc/{os.getppid()}/fd'):\n"
        "    open(f'/proc/{os.getppid()}/fd/{each}', 'w').write('passed')\n" + WRONG
    ),
    "reads its parent's memory": (
        "import os, re\nmaps = open(f'/proc/{os.getppid()}/maps').read()\n"
        "memory = open(f'/proc/{os.getppid()}/mem', 'r+b')\n"
        "def square(x): return 9 if x == 3 else 4\n"
    ),
    "equal to all": EVIL + "def square(x): return Evil()",
    "an int equal to all": EVIL + "def square(x): return EvilInt(1)",
    "a kind equal to all": EVIL + "class square:\n    def __new__(cls, x): return Evil()",
    "ends early": "def square(x):\n    raise StopIteration",
    "asserts": "def square(x):\n    raise AssertionError",
    "is no function": "square = None",
    "gives a module": "import antigravity\nsquare = antigravity",
    "never answers": "def square(x):\n    while True: pass",
    "sends too much": "def square(x):\n    return 'x' * 10 ** 8",
    "sends deep lists": (
        "def square(x):\n    found = []\n    for _ in range(10 ** 5): found = [found]\n"
        "    return found"
    ),
}


@pytest.mark.variants
@pytest.mark.parametrize("name", ATTACKS)
def test_no_trick_of_a_program_makes_its_tests_pass(name):
    run = PassRate(allow_code=True, seconds=1, memory_mb=256)
    assert run.score(SQUARE, ATTACKS[name]) == 0


FOOLED = [
    "assert value() == 3",
    "assert 3 == value()",
    "assert not value() != 3",
    "assert value() in [1, 2, 3]",
    "assert 3 in value()",
    "assert abs(value() - 3.14) < 1e-6",
    "assert abs(3.14 - value()) <= 1e-6",
    "assert value() < 1e-6",
    "assert 1 > value() > 0",
    "assert isinstance(value(), int) and value() == 4",
    "assert isinstance(3.5, value()) and False or isinstance('', value())",
    "assert {3: 1}.get(value()) == 1",
    "assert str(value()) == 'three'",
    "assert sorted([value()]) == [3]",
    "assert [value()] == [3]",
    "assert (value(), 1) == (3, 1)",
    "import math\nassert math.isclose(value(), 3.0)",
    "import unittest\nunittest.TestCase().assertEqual(value(), 3)",
    "assert all(map(value, []))and value() == 3",
]
"""Tests that a value which is equal to all would pass, were it asked."""


@pytest.mark.parametrize("evil", ["Evil()", "EvilInt(7)", "EvilStr('7')", "EvilList([7])"])
def test_an_object_that_is_equal_to_all_is_equal_to_nothing(evil):
    tests = (
        f"passed, value = [], value\nfor each in {FOOLED!r}:\n    try:\n"
        "        exec(each, {'value': value})\n        passed.append(each)\n"
        "    except Exception:\n        pass\nassert not passed"
    )
    assert RUN.score(tests, f"{EVIL}\ndef value(): return {evil}") == 1


def test_an_iteration_that_ends_early_is_no_pass():
    tests = "assert all(map(check, [1, 2, 3]))\nassert list(map(check, [1])) == []"
    assert RUN.score(tests, "def check(x):\n    raise StopIteration") == 0


@pytest.mark.variants
@pytest.mark.parametrize(
    ("program", "tests"),
    [
        ("def square(x): return x * x", SQUARE),
        ("def f(x): return x", "for v in (None, True, 1.5, 2j, 'é', b'z', [1, (2,)], {1: {2}}):\n"
                               "    assert f(v) == v and type(f(v)) is type(v)"),
        ("def f(x): return 10 ** x", "assert f(5000) == 10 ** 5000"),
        ("def f(): return float('inf'), -0.0", "assert str(f()) == '(inf, -0.0)'"),
        ("def sort(a): a.sort()", "a = [3, 1]\nsort(a)\nassert a == [1, 3]"),
        ("def put(d, s): d['a'] = 1; s.add(2)",
         "d, s = {}, set()\nput(d, s)\nassert d == {'a': 1} and s == {2}"),
        ("def f(x):\n    if x < 0: raise ValueError('below')\n    return x",
         "try:\n    f(-1)\n    assert False, 'no'\nexcept ValueError as e:\n"
         "    assert str(e) == 'below'"),
        ("class Odd(ValueError): pass\ndef f(): raise Odd('x')",
         "try:\n    f()\nexcept Odd: pass\nelse: raise AssertionError"),
        ("class Odd(ValueError): pass\ndef f(): raise Odd('x')",
         "try:\n    f()\nexcept ValueError: pass\nelse: raise AssertionError"),
        ("class Stack:\n    size = 0\n    def __init__(self): self.items = []\n"
         "    def push(self, x): self.items.append(x)\n    def pop(self): return self.items.pop()\n"
         "    def __len__(self): return len(self.items)",
         "s = Stack()\ns.push(1); s.push('b')\nassert len(s) == 2 and s.pop() == 'b'\n"
         "assert s.items == [1] and isinstance(s, Stack) and not isinstance(1, Stack)\n"
         "s.size = 4\nassert s.size == 4"),
        ("class P:\n    def __init__(self, x): self.x = x\n"
         "    def __eq__(self, o): return self.x == o.x\n"
         "    def __add__(self, o): return P(self.x + o.x)\n"
         "    def __repr__(self): return f'P{self.x}'",
         "assert P(1) + P(2) == P(3) and P(1) != P(2) and repr(P(7)) == 'P7'"),
        ("def apply(f, x): return f(f(x))", "assert apply(lambda v: v + 1, 3) == 5"),
        ("def apply(f, x): return f(x)", "assert apply(len, [1, 2]) == 2 and apply(str, 3) == '3'"),
        ("def evens(n):\n    for i in range(n): yield 2 * i", "assert list(evens(3)) == [0, 2, 4]"),
        ("def make():\n    return lambda x: x + 1", "assert make()(2) == 3"),
        ("import math\nfrom collections import Counter\ndef f(x): return Counter(x)",
         "assert f('aab') == {'a': 2, 'b': 1} and math.pi > 3"),
        ("from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(): return P(1, 2)",
         "assert f().x == 1 and f() == (1, 2)"),
        ("LIMIT = 3\ndef f(): return LIMIT", "assert f() == LIMIT == 3"),
        ("def add(a, b): return a + b",
         "def check(candidate):\n    assert candidate(1, 2) == 3\n\ncheck(add)"),
        ("def f(a, *, b=2): return a - b", "assert f(5) == 3 and f(5, b=1) == 4"),
        ("def f(): return 1", "assert f.__name__ == 'f' and callable(f)"),
        ("def f(x): print(x); return x", "print(f(1))\nassert f(2) == 2"),
        ("import re\ndef f(t): return re.match('a+', t)",
         "assert f('aab').group() == 'aa' and not f('b')"),
        ("x = 1", ""),
    ],
)  # fmt: skip
def test_right_programs_pass(program, tests):
    assert RUN.score(tests, program) == 1


@pytest.mark.variants
@pytest.mark.parametrize(
    "program",
    [
        "import os\nassert set(os.environ) <= {'OMP_NUM_THREADS', "
        "'OPENBLAS_NUM_THREADS', 'LC_CTYPE'}",
        "import os\nassert os.listdir() == []",
        "import resource as r\nassert r.getrlimit(r.RLIMIT_NPROC) == (0, 0)",
        "import resource as r\nassert max(r.getrlimit(r.RLIMIT_NOFILE)) <= 64",
        "import os\nassert len(os.listdir('/proc/self/fd')) <= 6",
        "import sys\nassert not any('llama_factory' in each for each in sys.path)",
    ],
)
def test_a_program_is_given_little(program):
    if "proc" in program and sys.platform != "linux":
        pytest.skip("/proc is Linux'")
    assert RUN.score("", program) == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="what a program leaves is found on Linux")
def test_what_a_program_leaves_behind_is_ended(tmp_path):
    alive = tmp_path / "alive"
    program = (
        "import os, time\n"
        "try:\n    child = os.fork()\nexcept OSError:\n    child = 1\n"
        f"if not child:\n    os.setsid()\n    time.sleep(0.8)\n    open({str(alive)!r}, 'w')\n"
        "    os._exit(0)\n"
    )
    RUN.score("", program)
    time.sleep(1.0)
    assert not alive.exists()
