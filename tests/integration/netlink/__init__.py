"""The real fabric in namespaces that play hosts."""
