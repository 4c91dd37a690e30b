"""OpenAI's request and response shapes, one subject a file. No engine and no HTTP here."""
