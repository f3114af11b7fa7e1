"""The Machine Provider as a service: its processes, its HTTP, its turns."""
