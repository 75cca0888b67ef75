"""The agent with a real Docker Engine and a real network, in namespaces of their own."""
