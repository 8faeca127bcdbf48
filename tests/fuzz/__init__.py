"""Requests at random against a real cluster: whatever is asked, nothing of ours breaks."""
