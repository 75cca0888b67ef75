"""Hosts that are asked about each other: whether an agent lives that the control plane does not hear any more."""
