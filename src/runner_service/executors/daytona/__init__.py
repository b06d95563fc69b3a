"""The Daytona executor: runs commands and keeps files in Daytona cloud sandboxes.

Importing this package does not import the Daytona SDK, which takes seconds; `sdk` imports it in a thread.
"""
