"""The connection to the control plane. With `streams/` the only folder of the agent that speaks gRPC; decides nothing."""
