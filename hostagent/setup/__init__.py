"""Making a machine fit to be a host: checks, changes with undo, and taking them back."""
