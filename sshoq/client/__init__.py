"""A run of the client; read main.py from top to bottom."""
