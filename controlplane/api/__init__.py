"""The gRPC side: servicers that authenticate, convert and call one service each. No decisions, and the only place with protobuf.

`interceptor.py` lets callers in, `errors.py` holds the one table from error classes to gRPC codes, `convert.py` turns records into
messages; one file a noun has the servicer.
"""
