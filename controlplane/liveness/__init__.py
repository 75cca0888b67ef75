"""Whether hosts can be reached: the link axis of a host's state. It never moves an instance and never takes an address away."""
