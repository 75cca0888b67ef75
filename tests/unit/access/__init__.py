"""Tests of controlplane/access."""
