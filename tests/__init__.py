"""Tests: a mirror of the package, and below it scenarios, privileged and golden."""
