"""The fleet in a box: what can be decided without a machine."""
