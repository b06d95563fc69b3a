from tests.running import start_process

__all__ = ["start_process"]
