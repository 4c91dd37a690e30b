"""Notices that a rented machine is about to be taken away: they ask this process to stop.

AWS tells two minutes before, Azure and Google thirty seconds; all by an address that only the
machine itself reaches. Kubernetes and most schedulers send SIGTERM themselves, and may also leave a
file. Sources: Amazon EC2 "Spot Instance interruption notices" (instance-action, with a token of the
metadata service, version 2), Google Compute Engine "Spot VMs" (instance/preempted), Azure
"Scheduled Events" (EventType Preempt).
"""

import json
import os
import re
import signal
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from llama_factory.core.signals import asked_by

LOCAL = "http://169.254.169.254"
"""Where the metadata services of AWS and Azure answer."""
GOOGLE = "http://metadata.google.internal"
SECONDS_BETWEEN = 5.0
TIMEOUT = 2.0
MOST_BYTES = 100_000

Notice = Callable[[], bool]
"""Whether the machine will be taken away; False where nobody answers."""


def of_aws(address: str = LOCAL) -> Notice:
    """An interruption is planned where `spot/instance-action` answers at all."""

    def is_given() -> bool:
        age = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        token = _ask(f"{address}/latest/api/token", age, method="PUT")
        header = {} if token is None else {"X-aws-ec2-metadata-token": token}
        return _ask(f"{address}/latest/meta-data/spot/instance-action", header) is not None

    return is_given


def of_gcp(address: str = GOOGLE) -> Notice:
    """The metadata server says TRUE once the machine is being taken away."""
    place = f"{address}/computeMetadata/v1/instance/preempted"
    return lambda: (_ask(place, {"Metadata-Flavor": "Google"}) or "").strip() == "TRUE"


def of_azure(address: str = LOCAL) -> Notice:
    """One of the scheduled events is a Preempt."""

    def is_given() -> bool:
        place = f"{address}/metadata/scheduledevents?api-version=2020-07-01"
        try:
            events = json.loads(_ask(place, {"Metadata": "true"}) or "{}").get("Events", [])
            return any(event.get("EventType") == "Preempt" for event in events)
        except (ValueError, AttributeError, TypeError):
            return False

    return is_given


def of_file(path: Path) -> Notice:
    """The file is there."""
    return path.exists


def of_address(address: str) -> Notice:
    """The address answers with status 200."""
    return lambda: _ask(address, {}) is not None


CLOUDS: dict[str, Callable[[], Notice]] = {"aws": of_aws, "gcp": of_gcp, "azure": of_azure}


def notice_of(source: str) -> Notice:
    """What is asked, by the setting: a cloud's name, an http address, or a file's path."""
    if source in CLOUDS:
        return CLOUDS[source]()
    if re.match(r"https?://", source):
        return of_address(source)
    return of_file(Path(source))


@contextmanager
def leaving_on_notice(
    source: str, say: Callable[[str], None], *, every: float = SECONDS_BETWEEN
) -> Iterator[None]:
    """While this lasts, a notice means what SIGTERM means to this process.

    In the main thread it is sent, once; in others, where signals do not arrive, training asks.

    Args:
        source: see `notice_of`; empty for none.
        say: is told of the notice.
        every: seconds between two looks.
    """
    if not source:
        yield
        return
    notice, is_over, is_given = notice_of(source), threading.Event(), threading.Event()
    hears_signals = threading.current_thread() is threading.main_thread()

    def look() -> None:
        while not is_over.is_set():
            if notice():
                say(f"{source}: this machine is about to be taken away. Saving, then leaving.")
                is_given.set()
                if hears_signals:
                    os.kill(os.getpid(), signal.SIGTERM)
                return
            is_over.wait(every)

    thread = threading.Thread(target=look, name="preemption", daemon=True)
    thread.start()
    try:
        with asked_by(lambda: signal.SIGTERM if is_given.is_set() else 0):
            yield
    finally:
        is_over.set()
        thread.join()


def _ask(address: str, headers: dict[str, str], method: str = "GET") -> str | None:
    """What an address answers with status 200; None for anything else. Never through a proxy."""
    request = urllib.request.Request(address, headers=headers, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=TIMEOUT) as answer:
            return str(answer.read(MOST_BYTES).decode(errors="replace"))
    except (OSError, ValueError):
        return None
