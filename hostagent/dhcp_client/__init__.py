"""Addresses of instances' interfaces that a DHCP server outside gives: a client (busybox's udhcpc) for each, in its namespace."""
