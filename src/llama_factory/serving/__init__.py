"""The released version behind an OpenAI-style API and a terminal chat."""
