"""How long to look: briefly and at the same examples each time with the other tests, for minutes with `make fuzz`."""

import os

from hypothesis import HealthCheck, settings

_CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

settings.register_profile("test", max_examples=25, deadline=None, suppress_health_check=_CHECKS, derandomize=True)
settings.register_profile("fuzz", max_examples=5000, deadline=None, suppress_health_check=_CHECKS, print_blob=True)
settings.load_profile(os.environ.get("FUZZ_PROFILE", "test"))
