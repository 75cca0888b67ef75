"""Tells each connected agent what to carry, and takes its word for what became of it.

`assignments.py` says what a host shall carry (pure), `sessions.py` holds the sessions, `dispatcher.py` turns the store's changes into
numbered increments, `streams.py` joins callers with the side streams that agents open, `tasks.py` runs builds and snapshots on hosts.
"""
