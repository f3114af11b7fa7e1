"""The documents, deployment files and packages say what is so."""
