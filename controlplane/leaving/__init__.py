"""Instances on their way out: no new clients, then no connections, then gone. It never decides who leaves."""
