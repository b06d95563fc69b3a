"""The Daytona executor: commands and files are in cloud sandboxes, called boxes here to tell them from our Protocol's.

Nothing in this package imports the SDK when it is imported itself: that takes seconds, and `sdk` does it in a thread.
"""
