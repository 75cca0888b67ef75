"""Asks running instances whether they have started, live, and can do their work. Never restarts one itself: it says so
in the journal's verdict, and the worker of the instance acts on it.

plan.py    which check is due, and what its outcome makes of the verdict; pure
checks.py  one check: exec, http, tcp; grpc_check.py: a call of the gRPC health protocol
loop.py    one watch an instance: does what the plan says, and records the verdict
"""
