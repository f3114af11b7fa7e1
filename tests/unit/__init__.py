"""A folder for each folder of the source, a file for each module."""
