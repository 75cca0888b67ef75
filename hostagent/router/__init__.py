"""The virtual router on its host: from a bundle to the programs of a router's container and the rules of its namespace.

Knows files, sockets and the programs' own languages. Does not know sessions, the journal's place or the engine.
"""
