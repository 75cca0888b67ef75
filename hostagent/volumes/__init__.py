"""Volumes on this host: folders below the agent's data folder. Nothing here ever removes one of its own accord."""
