from tests.running import start, start_process

__all__ = ["start", "start_process"]
