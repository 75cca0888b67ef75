"""The host's network: namespaces, links, addresses, forwarding entries, packet rules. Nothing here knows of
containers.

`fabric.py` is the only door; the rest is private to this folder. docs/decisions/0002-network-namespaces.md tells how a
network looks on a host and why.
"""
