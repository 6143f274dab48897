"""What the programs cost, beside OpenSSH's on the same machine in the same run: `make bench`."""
