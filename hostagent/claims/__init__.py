"""Leases of instances that must not run twice: asked for, counted, and told to the watchdog and the runtime wrapper."""
