"""Subnets, addresses and MACs: what is valid, what is free. Pure; the services write the leases in their own transactions."""
