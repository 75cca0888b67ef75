"""instance: one container in one place each. A file for each thing that is done with it; commands.py lists them."""
