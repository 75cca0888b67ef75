"""The fleet in a box itself, with real Docker Engines."""
