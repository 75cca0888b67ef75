"""Groups: instances of one kind that are kept alive and updated together."""
