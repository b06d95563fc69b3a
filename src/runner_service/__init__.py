"""An asyncio gRPC service that runs AI agents for others."""

import os

# gRPC's fork handlers crash child processes that are started while it is alive (grpc#43055), and it reads this when it
# is first imported: no import of it can come before this line.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
