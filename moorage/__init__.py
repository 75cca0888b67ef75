"""The library that Moorage's programs share: errors, ids, clock, store, TLS, client and generated stubs.

It never decides anything and knows no program that uses it.
"""

__version__ = "0.1.0"
