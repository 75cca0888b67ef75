"""From documents to what runs: pure functions with typed values on both sides. Never: protobuf, calls, clocks, files."""
