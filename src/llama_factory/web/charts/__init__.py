"""Geometry of pictures: values in, places out; templates draw them as SVG."""
