"""One module for each family or group of families, each with a list FAMILIES that tiny_table.py collects."""
