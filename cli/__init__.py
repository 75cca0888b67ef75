"""moor, the command line. It speaks only the public gRPC API.

The one exception is `moor dev`, which builds a fleet in a box on this machine. A command lives in the file of its noun.
"""
