"""What a model did with one row of lm-evaluation-harness, in words that people can check.

The harness keeps requests and likelihoods; which option they came to is worked out here. Scores
are the harness's own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

MOST_CHARACTERS = 2000
"""Of a prompt, counted from its end: the question stands there, behind the examples."""


def readable(task: Any, sample: Mapping[str, Any]) -> dict[str, Any]:
    """One JSON line: prompt, expected and given answer, and every score of the row.

    Args:
        task: the harness's task, which knows the options.
        sample: what the harness kept of the row under one of the task's filters.
    """
    options = _options(task, sample)
    return {
        "task": task.task_name,
        "row": sample["doc_id"],
        "prompt": _prompt(sample)[-MOST_CHARACTERS:],
        "expected": _expected(task, sample, options),
        "answer": _answer(sample, options),
        "filter": sample["filter"],
        "scores": {name: plain(sample[name]) for name in sample["metrics"]},
        "key": sample["doc_hash"],
    }


def _options(task: Any, sample: Mapping[str, Any]) -> list[str]:
    """The task's own, else the continuations that were compared; none where one text was asked."""
    if task.get_config("doc_to_choice") is not None:
        return [str(option) for option in task.doc_to_choice(sample["doc"])]
    asked = sample["arguments"]
    return [str(each[1]).strip() for each in asked] if len(asked) > 1 else []


def _prompt(sample: Mapping[str, Any]) -> str:
    return str(sample["arguments"][0][0])


def _expected(task: Any, sample: Mapping[str, Any], options: Sequence[str]) -> str:
    """Where each option has a prompt of its own, the harness finds the right one as the text."""
    is_text = len(sample["arguments"][0]) == 1
    if is_text:
        return ""
    has_own_prompts = bool(getattr(task, "multiple_input", False))
    target = task.doc_to_text(sample["doc"]) if has_own_prompts else sample["target"]
    targets = target if isinstance(target, list) else [target]
    return ", ".join(_named(each, options) for each in targets).strip()


def _named(target: object, options: Sequence[str]) -> str:
    """A number counts the options."""
    if isinstance(target, int) and 0 <= target < len(options):
        return options[target]
    return str(target)


def _answer(sample: Mapping[str, Any], options: Sequence[str]) -> str:
    """The generated text, the likeliest option, or the one continuation if greedy text equals it.

    Likelihoods beyond the options are those without a prompt, for mutual information.
    """
    asked, replies = sample["arguments"], sample["filtered_resps"]
    if len(asked) > 1:
        best = max(range(len(options)), key=lambda place: float(replies[place][0]))
        return options[best]
    if len(asked[0]) == 1:
        return ""
    if isinstance(asked[0][1], str):
        return asked[0][1].strip() if replies[0][1] else ""
    return _text(replies[0])


def _text(reply: object) -> str:
    """The first of several where a filter keeps more than one."""
    return _text(reply[0]) if isinstance(reply, list | tuple) and reply else str(reply)


def plain(value: Any) -> Any:
    """A score as JSON knows it: NumPy's numbers and arrays among them, inside tuples too."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value if isinstance(value, int | float | str) or value is None else str(value)
