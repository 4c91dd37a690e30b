"""Results that somebody else waits for."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


def fulfil(future: "Future[Any]", work: Callable[[], Any]) -> None:
    """Do what a future stands for; whoever waits for it gets the result or the error.

    Nothing is done where it was cancelled before.
    """
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001  # whoever waits for the future gets it
        future.set_exception(error)
    else:
        future.set_result(result)
