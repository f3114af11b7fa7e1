"""The story that `gce-backend demo` tells: the whole life of a fleet, verified step by step.

`story` is what happens, `stage` sees and acts through public edges only (the cloud's state, the
Machine Provider's API, the daemon's API), `show` is what people see, and `theatre` has a cloud and
a daemon of its own. The story can also be about a daemon in another process, which may be
killed and started again meanwhile. What
may live here: scenes and how they are shown. What may not: anything that the daemon needs.
"""
