"""Hosts that are being emptied: who shall go, who has, and why not. It makes nobody anew: owners do."""
