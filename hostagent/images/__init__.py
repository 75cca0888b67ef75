"""Images on one host: the loopback proxy through which the Docker Engine reaches the platform's registry."""
