"""The command line and the client library against a control plane of dictionaries, over real gRPC and TLS."""
