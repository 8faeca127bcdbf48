"""Running a cluster: the containers, the launcher, and what installs them.

No other package imports this one.
"""
