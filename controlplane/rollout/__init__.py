"""Groups: keeps them at their number, replaces what failed or is of an older revision. `plan.py` decides, `loop.py` commits. It never
places an instance, and never takes clients from one: see `controlplane/scheduler/` and `controlplane/leaving/`.
"""
