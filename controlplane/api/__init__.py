"""The gRPC side: servicers that authenticate, convert and call one service each. No decisions, and the only place with protobuf.

`interceptor.py` lets callers in, `errors.py` says what callers are told of errors, `convert.py` turns records into
messages; one file a noun has the servicer.
"""
