"""The store's contract, run over every backend, and what only SQLite promises."""
