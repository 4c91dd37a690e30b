"""Settings -> the sets of rows that they name."""

from dataclasses import replace
from pathlib import Path

from llama_factory.core.errors import ConfigError
from llama_factory.data.settings import DataSettings
from llama_factory.data.sources.files import DataSource, find_sources

DATASET_INFO = "dataset_info.json"


def gather(settings: DataSettings) -> list[DataSource]:
    """All sets to train on and to test on.

    Raises:
        ConfigError: none is named, or one is not there.
        DataError: one cannot be read.
    """
    train = _sources("data.train_path", settings.train_path, settings.dataset, settings)
    if not train:
        raise ConfigError(
            "data.train_path is not given: name the file or folder to train on, or name sets in "
            "data.dataset."
        )
    tests = _sources("data.eval_path", settings.eval_path, settings.eval_dataset, settings)
    return [*train, *(replace(each, is_test=True) for each in tests)]


def gather_tests(settings: DataSettings) -> list[DataSource]:
    """The sets to test on; where none are named, those that are named to train on."""
    tests = _sources("data.eval_path", settings.eval_path, settings.eval_dataset, settings)
    return tests or gather(settings)


def gather_path(path: Path, settings: DataSettings) -> list[DataSource]:
    """The sets in a file or folder; a `dataset_info.json` in it says how its files are laid out."""
    found = find_sources(path, setting="PATH")
    if (path / DATASET_INFO).is_file():
        from llama_factory.data.sources.named import local_names, named_sources

        named = named_sources(local_names(path), path)
        described = {each.path for each in named}
        found = [*named, *(each for each in found if each.path not in described)]
    return _encoded(found, settings)


def has_tests(settings: DataSettings) -> bool:
    """Whether rows to test on are given, so that no training row is held out."""
    return bool(settings.eval_path or settings.eval_dataset)


def _sources(
    setting: str, path: Path | None, names: list[str], settings: DataSettings
) -> list[DataSource]:
    from llama_factory.data.sources.named import named_sources

    found = find_sources(path, setting=setting) if path else []
    found += named_sources(names, settings.dataset_dir) if names else []
    return _encoded(found, settings)


def _encoded(sources: list[DataSource], settings: DataSettings) -> list[DataSource]:
    if settings.encoding is None:
        return sources
    return [replace(each, encoding=settings.encoding) for each in sources]
