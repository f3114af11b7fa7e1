"""What runs on leased machines, apart from everything else: `agent.py` is copied to a VM as it is.

It needs Python 3.8 and its standard library, and imports nothing of this project; nothing here
imports it. `install.sh` is the start-up script that installs it.
"""
