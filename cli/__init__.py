"""moor, the command line. It speaks only the public gRPC API, apart from `moor dev`, which builds a fleet in a box on this machine."""
