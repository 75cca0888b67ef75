"""What each instance needs next (plan.py, pure) and the loops that see to it. Knows no gRPC, Docker or netlink."""
