"""One script for each question; each prints its measurements, and one JSON object as its last line."""
