"""The road every byte travels: the one pump, and the ends it runs between."""
