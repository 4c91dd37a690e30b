"""Opens the page on a port, with the API beside it or alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI

from llama_factory import operate
from llama_factory.core.errors import ServingError, VersionError
from llama_factory.serving.server import (
    Beside,
    address_of,
    is_loopback,
    leaving_on_sigterm,
    listen,
    log_to_stderr,
    run,
)
from llama_factory.serving.settings import ServingSettings
from llama_factory.versions.workspace import SETTINGS_FILE
from llama_factory.web.app import beside_api, create_web
from llama_factory.web.site import Site


@dataclass(frozen=True)
class WebOptions:
    """Where and how the page is opened.

    Attributes:
        host: address to listen on; None for that of the API's settings.
        port: 0 takes any free one; None for that of the API's settings.
        has_api: whether the API answers on the same port.
        hosts: names by which it may be asked without a log-in.
        changes: settings of the API, as `key=value`.
    """

    host: str | None = None
    port: int | None = None
    has_api: bool = True
    hosts: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()

    @property
    def settings(self) -> list[str]:
        """All that differs from the settings of the workspace."""
        address = {"serving.host": self.host, "serving.port": self.port}
        chosen = [f"{name}={value}" for name, value in address.items() if value is not None]
        return [*self.changes, *chosen]


def serve_web(place: Path, options: WebOptions, say: Callable[[str], None]) -> None:
    """Show the page until stopped.

    Args:
        place: a workspace, or a folder with workspaces below it; such a folder has no API.
        options: where and how.
        say: shows one line to the user.

    Raises:
        ServingError: it would be open to the network and nobody may log in, or the port is taken.
        VersionError: there is no such folder.
    """
    if not place.is_dir():
        raise VersionError(f"{place}: there is no such folder.")
    address = _address(place, options)
    is_network = not is_loopback(address.host)
    if is_network and not operate.users(place):
        raise ServingError(operate.nobody_may_log_in(place, address.host))
    page = create_web(place, has_api=options.has_api, is_network=is_network, hosts=options.hosts)
    site: Site = page.state.site
    if options.has_api and site.is_workspace:
        beside = Beside(beside_api(page), site.close)
        operate.serve(place, options.settings, _also_page(say), beside=beside)
    else:
        _serve_alone(page, address, say)


def _address(place: Path, options: WebOptions) -> ServingSettings:
    if options.has_api and (place / SETTINGS_FILE).is_file():
        return operate.serving_settings(place, options.settings)
    usual = ServingSettings()
    port = usual.port if options.port is None else options.port
    return ServingSettings(host=options.host or usual.host, port=port)


def _serve_alone(page: FastAPI, address: ServingSettings, say: Callable[[str], None]) -> None:
    site: Site = page.state.site
    with log_to_stderr(), leaving_on_sigterm(), listen(address) as listener:
        text = f"The page of {site.folder.name} is on {address_of(listener)}/"
        run(page, listener, lambda: say(text), on_stop=site.close)


def _also_page(say: Callable[[str], None]) -> Callable[[str], None]:
    """Names the page's address beside the API's."""

    def spoken(line: str) -> None:
        say(line)
        if line.endswith("/v1"):
            say(f"The page is on {line.split()[-1].removesuffix('v1')}")

    return spoken


def gradio_address(environment: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Where the variables of a Gradio program would open the page.

    Args:
        environment: variables by name.

    Returns:
        Values by name (`host`, `port`), and a line about each variable that is used.

    Raises:
        ServingError: the port is no number.
    """
    names = {"host": "GRADIO_SERVER_NAME", "port": "GRADIO_SERVER_PORT"}
    known = {name: environment[each] for name, each in names.items() if environment.get(each)}
    if not known.get("port", "0").isdigit():
        raise ServingError(f"GRADIO_SERVER_PORT: '{known['port']}' is no port. Take a number.")
    notes = [f"{names[name]}={value} says where the page is." for name, value in known.items()]
    return known, notes
