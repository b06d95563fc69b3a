from tests.running import start

__all__ = ["start"]
