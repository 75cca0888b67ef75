"""The image of the virtual router, as files: Dockerfile, what it copies, and README.md with the contract. No code of the agent's."""
