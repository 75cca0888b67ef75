"""Moves members of groups to hosts where they stand better, a few at a time. Off unless an operator turns it on, or asks for moves."""
