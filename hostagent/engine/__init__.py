"""The Docker Engine as the agent sees it: containers, images, streams and builds, as plain values.

The only place that knows Docker's HTTP API. It does not know networks, instances or journals, decides nothing (no
retry, no restart), and never touches a container that its caller did not name. Start reading at `docker_engine.py`.
"""
