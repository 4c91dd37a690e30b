"""Preference: how often a judging model prefers the answer to the expected one.

Zheng et al. 2023, https://arxiv.org/abs/2306.05685, section 3: every pair is judged in both orders,
as judges favour a position. Differs: a win in one order and a tie in the other counts 0.75.
"""

import logging
import math
import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from llama_factory.core.errors import ConfigError
from llama_factory.evaluation.metrics import METRICS, Metric
from llama_factory.evaluation.task_rows import AnsweredRow, ScoredRow

if TYPE_CHECKING:
    import httpx

POINTS = {"A": 0.0, "tie": 0.5, "B": 1.0}
"""Of the answer that is shown second."""
Preferred = Literal["A", "B", "tie"]
Failure = Literal["timed out", "server error", "no verdict"]

PROMPT = """\
Two assistants answered the same question. Decide which answer is better: more correct, more \
helpful and nearer to what was asked. Length and order must not count.

[Question]
{question}

[Answer A]
{first}

[Answer B]
{second}

End with your verdict alone on the last line: [[A]], [[B]], or [[tie]]."""
VERDICT = re.compile(r"\[\[\s*(A|B|tie)\s*\]\]", re.IGNORECASE)
RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""HTTP status codes of failures that may pass."""
MAX_WAIT = 30.0
"""Seconds between two attempts."""

logger = logging.getLogger(__name__)


@METRICS.register("preference")
class Preference(Metric):
    """Share of answers that a judging model prefers to the expected ones; a tie counts half."""

    url: str = ""
    """Address of an OpenAI-style API, such as http://127.0.0.1:8000/v1. Prompts, expected answers
    and answers are sent there."""
    model: str = ""
    """Name of the judging model there."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; not needed where it is empty."""
    timeout: float = Field(60.0, gt=0)
    """Seconds to wait for one verdict."""
    retries: int = Field(2, ge=0)
    """Further attempts after a busy server or a time-out; then the row counts as not judged."""
    parallel: int = Field(4, ge=1)
    """Rows judged at once; higher is faster where the server can bear it."""

    def check(self) -> None:
        """See `Metric.check`."""
        for name in ("url", "model"):
            if not getattr(self, name):
                raise ConfigError(
                    f"evaluation.metrics: 'preference' needs `{name}` of the judge. Give it in "
                    "the settings of this metric, or leave the metric out."
                )

    def score_rows(self, rows: Sequence[AnsweredRow]) -> list[ScoredRow]:
        """See `Metric.score_rows`; rows without two verdicts have no score, with a warning."""
        import httpx

        self.check()
        key = os.environ.get(self.api_key_env, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        url = self.url.rstrip("/") + "/"
        with (
            httpx.Client(base_url=url, headers=headers, timeout=self.timeout) as client,
            ThreadPoolExecutor(self.parallel) as pool,
        ):
            judge = PairwiseJudge(client, self.model, self.retries)
            waiting = [pool.submit(_both_orders, judge, row) for row in rows]
            try:
                verdicts = [each.result() for each in waiting]
            except ConfigError:
                pool.shutdown(cancel_futures=True)  # the other rows would fail like this one
                raise
        _warn(verdicts)
        return [_scored(row, pair) for row, pair in zip(rows, verdicts, strict=True)]


def _both_orders(judge: "PairwiseJudge", row: AnsweredRow) -> tuple[str, str]:
    """Verdicts with the answer second, then with it first."""
    question = row.row.example.prompt[-1].content
    expected, answer = row.row.expected, row.text
    return judge.prefer(question, expected, answer), judge.prefer(question, answer, expected)


def _scored(row: AnsweredRow, verdicts: tuple[str, str]) -> ScoredRow:
    second, first = (POINTS.get(verdict, math.nan) for verdict in verdicts)
    return ScoredRow(row.row.expected, row.text, (second + 1 - first) / 2)


def _warn(verdicts: Sequence[tuple[str, str]]) -> None:
    """Warn of rows without a score, and report how often the judge followed the order."""
    failures = Counter(each for pair in verdicts for each in pair if each not in POINTS)
    num_lost = sum(any(each not in POINTS for each in pair) for pair in verdicts)
    if num_lost:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in failures.most_common())
        logger.warning(
            "preference: %d of %d rows were not judged and are left out: %s.",
            num_lost,
            len(verdicts),
            reasons,
        )
    num_swayed = sum(pair in (("A", "A"), ("B", "B")) for pair in verdicts)
    if num_swayed:
        logger.info(
            "preference: in %d of %d rows the verdict changed with the order: counted as ties.",
            num_swayed,
            len(verdicts),
        )


@dataclass(frozen=True)
class PairwiseJudge:
    """A judging model behind an OpenAI-style address.

    Attributes:
        client: with the judge's address, key and time limit.
        model: name of the judging model.
        retries: further attempts after a busy server or a lost connection.
        wait: seconds before the first of them; doubled each time.
    """

    client: "httpx.Client"
    model: str
    retries: int
    wait: float = 1.0

    def prefer(self, question: str, first: str, second: str) -> Preferred | Failure:
        """Which of two answers is better, or why there is no verdict.

        Raises:
            ConfigError: nothing answers at the address, or it refuses the key or the model.
        """
        prompt = PROMPT.format(question=question, first=first, second=second)
        messages = [{"role": "user", "content": prompt}]
        body = {"model": self.model, "messages": messages, "temperature": 0}
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(min(MAX_WAIT, self.wait * 2 ** (attempt - 1)))
            verdict = self._ask(body)
            if verdict not in ("timed out", "server error"):
                break
        return verdict

    def _ask(self, body: dict[str, Any]) -> Preferred | Failure:
        import httpx

        try:
            answer = self.client.post("chat/completions", json=body)
        except httpx.TimeoutException:
            return "timed out"
        except httpx.ConnectError as error:
            raise ConfigError(
                f"preference.url: nothing answers at {self.client.base_url}: {error}."
            ) from error
        except httpx.TransportError:
            return "server error"
        if answer.status_code in RETRIED:
            return "server error"
        if answer.is_error:
            raise ConfigError(
                f"preference: {answer.url} answered {answer.status_code}: {answer.text[:200]}. "
                "Check url, model and the key."
            )
        return read_verdict(_content(answer))


def read_verdict(text: str) -> Preferred | Failure:
    """The verdict of a judge's answer; two different ones are none."""
    named = {verdict.casefold() for verdict in VERDICT.findall(text)}
    verdicts: dict[frozenset[str], Preferred] = {
        frozenset({"a"}): "A",
        frozenset({"b"}): "B",
        frozenset({"tie"}): "tie",
    }
    return verdicts.get(frozenset(named), "no verdict")


def _content(answer: "httpx.Response") -> str:
    """The text of a chat completion; empty where the answer is none."""
    try:
        content = answer.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError):
        return ""
    return content if isinstance(content, str) else ""
