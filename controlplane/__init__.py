"""The server that decides and remembers: API, scheduler, address allocation, sessions with agents.

It never touches Docker or a network device.
"""
