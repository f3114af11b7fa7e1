"""Pure and small: a folder for each folder of the source, a file for each module."""
