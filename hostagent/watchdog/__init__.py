"""The watchdog: a program of its own that ends what runs on without a lease, whatever has become of the agent and the engine.

It imports nothing but the standard library, and little of that, so that it is small enough to stay in memory.
"""
