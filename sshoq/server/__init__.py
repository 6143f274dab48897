"""The five kinds of process of the server, a file each, and what they share."""
