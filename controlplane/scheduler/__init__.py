"""Decides which host carries an instance, and says why.

`fleet.py` keeps the fleet as columns, `filters.py` and `scores.py` judge hosts, `plan.py` places pending instances (all pure),
`loop.py` wakes up on changes and commits what the plan says. It never talks to a host and never moves an instance.
"""
