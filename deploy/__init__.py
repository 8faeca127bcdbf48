"""Running a cluster: the containers, the launcher, and what installs them. No package imports this one."""
