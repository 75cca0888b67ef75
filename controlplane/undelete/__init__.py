"""What was deleted and is kept for a while, until its time is up."""
