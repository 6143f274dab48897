"""Tests that need root: real users, PAM, terminals and records."""
