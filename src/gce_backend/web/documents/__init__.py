"""The daemon told to programs: JSON documents, orders, metrics."""
