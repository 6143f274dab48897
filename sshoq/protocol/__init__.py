"""Rules: what is said and what may follow what. No socket, clock or event loop."""
