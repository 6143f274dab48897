"""Tests of sshoq/config: each module alone, and the whole against the machine's own ssh."""
