"""The connection to the control plane. The only folder of the agent that imports gRPC and protobuf; decides nothing."""
