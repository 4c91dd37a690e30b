"""How a model answers: decoding, caches, engines. Knows folders of weights, and no HTTP."""
