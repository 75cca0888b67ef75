"""What the control plane remembers, as immutable records. They mirror the messages of protos/moorage/v1 (same field names).

No asyncio, gRPC, protobuf or store call here: values only. `kinds.py` says under which key and index each record is kept.
"""
