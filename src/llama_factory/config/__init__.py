"""YAML files -> validated settings, with every problem named at once."""
