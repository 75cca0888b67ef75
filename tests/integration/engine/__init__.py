"""The engine layer against a real Docker Engine: what a fake cannot show."""
