"""The Stigmer daemon: executions that it hands over by their ids, and the reports that it gets of them."""
