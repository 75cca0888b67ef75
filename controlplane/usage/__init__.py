"""Keeps the meters of usage in step with what there is."""
