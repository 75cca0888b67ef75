"""One suite over the fake engine and a real one, and the pure parts of the engine layer."""
