"""Stands in for control plane and agent: `python -m tests.integration.box.fake_program controlplane|agent CONFIG`.

The control plane listens on its addresses and writes admin.json; the agent leaves a file that says where it
runs. Both then wait.
"""

import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

import yaml


def main() -> None:
    """Do what the argument says and wait for the end."""
    kind, config_file = sys.argv[1:]
    config = yaml.safe_load(Path(config_file).read_text())
    with contextlib.ExitStack() as open_sockets:
        if kind == "controlplane":
            for address in [*config["api_listen"], *config["agent_listen"]]:
                host, _, port = address.rpartition(":")
                listener = open_sockets.enter_context(socket.create_server((host, int(port)), reuse_port=False))
                listener.listen()
            admin = {"api_key": "key", "ca_file": config_file, "address": config["api_listen"][0]}
            Path(config["data_dir"], "admin.json").write_text(json.dumps(admin))
        else:
            facts = {"host": os.uname().nodename, "links": os.listdir("/sys/class/net"), "token": config["join_token"]}
            Path(config["data_dir"], "facts.json").write_text(json.dumps(facts))
        signal.pause()


if __name__ == "__main__":
    main()
