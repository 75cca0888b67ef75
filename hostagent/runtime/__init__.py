"""The small OCI runtime that Docker runs in place of runc, so that containers start inside the namespaces that we
made."""
