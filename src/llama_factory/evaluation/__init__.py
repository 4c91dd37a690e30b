"""What a model knows, and what it forgot: tasks, metrics, suites, statistics."""
