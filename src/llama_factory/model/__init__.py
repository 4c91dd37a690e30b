"""Names -> base models, adapters and tokens."""
