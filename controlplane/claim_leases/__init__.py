"""Leases of instances that claim something: given to hosts that ask, and what is claimed set free once the last one has ended."""
