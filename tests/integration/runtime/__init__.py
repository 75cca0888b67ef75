"""The runtime wrapper against a runtime that only records, and against runc."""
