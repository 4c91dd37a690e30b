"""Ways to keep old knowledge while learning new, one file each, on the hooks of `Strategy`."""

from llama_factory.core.settings import import_parts

import_parts(__name__, __path__)
