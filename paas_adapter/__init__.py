"""Maps Stratos-like cartridges and applications onto Moorage's public API. Its place is kept here; its own issue fills it."""
