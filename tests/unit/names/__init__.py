"""Names that the agent answers."""
