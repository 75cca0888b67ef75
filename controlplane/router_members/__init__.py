"""Makes, changes and removes the containers of routers: `plan.py` decides, `loop.py` commits. Never derives what they are told."""
